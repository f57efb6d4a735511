"""Bytes of which nobody knows what they mean: all arrive, halves of connections end by themselves, and resets are resets."""

import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time

from cases import case

ORDERS, ECHO, SOCAT_ECHO, SOCAT_COUNT, SOCAT_SEND, NOBODY = 7000, 7001, 7002, 7003, 7004, 7999
LARGE = 64 << 20
BLOCK = 1 << 16


def serve(site):
    """A server of orders, and socat's."""
    site.start(sys.executable, "-m", "groups.tcp", port=ORDERS)
    site.start("socat", f"TCP-LISTEN:{SOCAT_ECHO},fork,reuseaddr", "EXEC:cat", port=SOCAT_ECHO)
    # Answers when all has come: what it says comes after the client's half has ended.
    site.start("socat", f"TCP-LISTEN:{SOCAT_COUNT},fork,reuseaddr", "SYSTEM:sha256sum", port=SOCAT_COUNT)
    site.start("socat", "-U", f"TCP-LISTEN:{SOCAT_SEND},fork,reuseaddr", f"EXEC:'cat {site.shared}/large'", port=SOCAT_SEND)


# The server: the first line of a connection is an order.

# What it saw of connections that were told to remember, by name.
REMEMBERED = {}


def obey(connection):
    try:
        order = b""
        while not order.endswith(b"\n"):
            order += connection.recv(1) or b"\n"
        word, *arguments = order.decode().split()
        ORDERED[word](connection, *arguments)
    except (OSError, IndexError, KeyError, ValueError):
        pass
    finally:
        connection.close()


def reset(connection):
    """Closes so that the other side is sent a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def all_of(connection):
    """What comes until the end, and how it ended."""
    content = hashlib.sha256()
    length = 0
    try:
        while block := connection.recv(BLOCK):
            content.update(block)
            length += len(block)
        return [length, content.hexdigest(), "end"]
    except ConnectionResetError:
        return [length, content.hexdigest(), "reset"]


def checksum_after_end(connection):
    """Speaks only when the client's half has ended."""
    connection.sendall(repr(all_of(connection)).encode())


def end_first(connection, name):
    """Ends its half at once, and goes on reading."""
    connection.sendall(b"that is all\n")
    connection.shutdown(socket.SHUT_WR)
    REMEMBERED[name] = all_of(connection)


def remember(connection, name):
    connection.sendall(b"ready\n")
    REMEMBERED[name] = all_of(connection)


def recall(connection, name):
    for _ in range(100):
        if name in REMEMBERED:
            break
        time.sleep(0.05)
    connection.sendall(repr(REMEMBERED.get(name, "nothing within 5 s")).encode())


def send_and_end(connection, length):
    for _ in range(int(length) // BLOCK):
        connection.sendall(bytes(BLOCK))


def send_and_reset(connection, length):
    connection.sendall(bytes(int(length)))
    # Until it is there: a RST overtakes what has not been read.
    connection.recv(1)
    reset(connection)


def ignore(connection):
    """Reads nothing, and says so."""
    connection.sendall(b"not listening\n")
    time.sleep(20)


ORDERED = {
    "checksum": checksum_after_end,
    "end-first": end_first,
    "remember": remember,
    "recall": recall,
    "send": send_and_end,
    "reset": reset,
    "send-and-reset": send_and_reset,
    "ignore": ignore,
    "close": lambda _connection: None,
}


def echo(connection):
    try:
        while block := connection.recv(BLOCK):
            connection.sendall(block)
    except OSError:
        pass
    finally:
        connection.close()


def listen(port, behave):
    server = socket.create_server(("0.0.0.0", port), backlog=512)
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=behave, args=(connection,), daemon=True).start()


# The cases


def connect(site, port=ORDERS, order=None):
    connection = socket.create_connection((site.server, port), 20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if order:
        connection.sendall(order.encode() + b"\n")
    return connection


def asked(site, order):
    with connect(site, order=order) as connection:
        answer = b""
        while block := connection.recv(BLOCK):
            answer += block
        return answer.decode()


def exactly(connection, length):
    content = b""
    while len(content) < length:
        block = connection.recv(length - len(content))
        if not block:
            break
        content += block
    return content


@case("half-close by the client: the server hears the end, and answers")
def client_half_close(site):
    content = os.urandom(300_000)
    with connect(site, order="checksum") as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        saw = exactly(connection, 1000).decode()
    assert saw == repr([len(content), hashlib.sha256(content).hexdigest(), "end"]), saw
    return len(content)


@case("half-close by the server: the client goes on sending")
def server_half_close(site):
    content = os.urandom(300_000)
    with connect(site, order=f"end-first {site.side}-half") as connection:
        said = exactly(connection, 1000)
        # It has ended: the other half has not.
        time.sleep(0.5)
        for start in range(0, len(content), 30_000):
            connection.sendall(content[start : start + 30_000])
            time.sleep(0.02)
    saw = asked(site, f"recall {site.side}-half")
    assert said == b"that is all\n" and saw == repr([len(content), hashlib.sha256(content).hexdigest(), "end"]), (said, saw)
    return len(content)


@case("socat: half-close (checksum of standard input)")
def socat_half_close(site):
    content = os.urandom(2_000_000)
    said = site.run("socat", "-t10", "-", f"TCP:{site.server}:{SOCAT_COUNT}", stdin=content).decode()
    assert said.split()[0] == hashlib.sha256(content).hexdigest(), said
    return "the same"


@case("socat: echo of 16 MiB")
def socat_echo(site):
    content = os.urandom(16 << 20)
    assert site.run("socat", "-t10", "-", f"TCP:{site.server}:{SOCAT_ECHO}", stdin=content) == content
    return len(content)


@case("socat: 32 MiB from the server")
def socat_receive(site):
    content = site.run("socat", "-u", f"TCP:{site.server}:{SOCAT_SEND}", "-")
    assert content == (site.shared / "large").read_bytes(), len(content)
    return len(content)


@case("64 MiB to the server")
def large_upload(site):
    block = os.urandom(1 << 20)
    expected = hashlib.sha256()
    with connect(site, order="checksum") as connection:
        for _ in range(LARGE >> 20):
            connection.sendall(block)
            expected.update(block)
        connection.shutdown(socket.SHUT_WR)
        saw = exactly(connection, 1000).decode()
    assert saw == repr([LARGE, expected.hexdigest(), "end"]), saw
    return LARGE


@case("64 MiB to the client")
def large_download(site):
    with connect(site, order=f"send {LARGE}") as connection:
        saw = all_of(connection)
    assert saw[0] == LARGE and saw[2] == "end", saw
    return saw


@case("32 MiB in both directions at once")
def both_ways(site):
    content = os.urandom(1 << 20)
    expected, got = hashlib.sha256(), hashlib.sha256()
    with connect(site, ECHO) as connection:

        def send():
            for _ in range(32):
                connection.sendall(content)
                expected.update(content)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while block := connection.recv(BLOCK):
            got.update(block)
        sender.join()
    assert got.digest() == expected.digest()
    return "the same"


@case("RST by the server reaches the client as RST")
def server_reset(site):
    with connect(site, order="reset") as connection:
        saw = all_of(connection)
    assert saw[::2] == [0, "reset"], saw
    return saw


@case("RST by the server after data")
def server_reset_later(site):
    with connect(site, order="send-and-reset 10000") as connection:
        got = len(exactly(connection, 10_000))
        connection.sendall(b"!")
        saw = [got, all_of(connection)]
    assert saw[0] == 10_000 and saw[1][2] == "reset", saw
    return saw


@case("RST by the client reaches the server as RST")
def client_reset(site):
    connection = connect(site, order=f"remember {site.side}-reset")
    assert exactly(connection, 6) == b"ready\n"
    connection.sendall(b"and gone")
    time.sleep(0.3)
    reset(connection)
    saw = asked(site, f"recall {site.side}-reset")
    assert saw.startswith("[8, ") and saw.endswith("'reset']"), saw
    return saw


@case("an end by the client is no RST for the server")
def client_end(site):
    with connect(site, order=f"remember {site.side}-end") as connection:
        assert exactly(connection, 6) == b"ready\n"
    saw = asked(site, f"recall {site.side}-end")
    assert saw.startswith("[0, ") and saw.endswith("'end']"), saw
    return saw


@case("an end by the server is no RST for the client")
def server_end(site):
    with connect(site, order="close") as connection:
        saw = all_of(connection)
    assert saw[::2] == [0, "end"], saw
    return saw


@case("a port where nobody listens is an error, not an end")
def refused(site):
    """Refused or reset: a proxy has accepted by the time that it knows."""
    try:
        with connect(site, NOBODY) as connection:
            connection.settimeout(10)
            saw = "end" if not connection.recv(1) else "data"
    except (ConnectionRefusedError, ConnectionResetError):
        saw = "an error"
    assert saw == "an error", saw
    return saw


@case("a server that does not read stops the client")
def backpressure(site):
    """What is sent has to stay with the client sooner or later: a proxy that takes all of it needs memory without end."""
    bound = 64 << 20
    with connect(site, order="ignore") as connection:
        assert exactly(connection, 14) == b"not listening\n"
        connection.setblocking(False)
        sent = 0
        while sent < bound and select.select([], [connection], [], 1)[1]:
            sent += connection.send(bytes(BLOCK))
        reset(connection)
    assert sent < bound, f"all of {sent} bytes were taken"
    return "stopped"


@case("single bytes, each answered before the next")
def single_bytes(site):
    with connect(site, ECHO) as connection:
        began = time.monotonic()
        for i in range(200):
            connection.sendall(bytes([i]))
            assert exactly(connection, 1) == bytes([i])
        return {"ping_pong_ms": round((time.monotonic() - began) * 1000 / 200, 2)}


@case("150 connections at once")
def many(site):
    connections = [connect(site, ECHO) for _ in range(150)]
    try:
        for i, connection in enumerate(connections):
            connection.sendall(b"%d\n" % i)
        saw = [exactly(connection, len(b"%d\n" % i)) for i, connection in enumerate(connections)]
    finally:
        for connection in connections:
            connection.close()
    assert saw == [b"%d\n" % i for i in range(150)]
    return len(saw)


@case("silent for 12 s, then goes on")
def idle(site):
    with connect(site, ECHO) as connection:
        connection.sendall(b"one")
        assert exactly(connection, 3) == b"one"
        time.sleep(12)
        connection.sendall(b"two")
        saw = exactly(connection, 3).decode()
    assert saw == "two", saw
    return saw


# What begins as a protocol that a mesh knows, and is another one.
BEGINNINGS = {
    "RTSP": b"OPTIONS rtsp://example.org/film RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "SIP": b"OPTIONS sip:bob@example.org SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n",
    "ICAP": b"OPTIONS icap://example.org/scan ICAP/1.0\r\nHost: example.org\r\n\r\n",
    "a word of HTTP, and another line": b"GET me a coffee\n",
    "half a word of HTTP": b"PO",
    "half of HTTP/2's first words": b"PRI * HT",
    "the first byte of TLS": b"\x16",
    "the first bytes of TLS, and no more": b"\x16\x03\x01\x00",
    "zeros": bytes(8),
}

for name, beginning in BEGINNINGS.items():

    @case(f"begins as HTTP or TLS does: {name}" if name != "zeros" else "begins with zeros")
    def begins(site, beginning=beginning):
        """The server says the same back, and nothing else."""
        with connect(site, ECHO) as connection:
            connection.sendall(beginning)
            connection.settimeout(4)
            saw = exactly(connection, len(beginning))
            connection.shutdown(socket.SHUT_WR)
            saw += exactly(connection, 1000)
        assert saw == beginning, f"{saw} instead of the same"
        return saw.decode("latin-1")


@case("nothing but an end")
def nothing(site):
    with connect(site, ECHO) as connection:
        connection.shutdown(socket.SHUT_WR)
        saw = all_of(connection)
    assert saw[::2] == [0, "end"], saw
    return saw


if __name__ == "__main__":
    threading.Thread(target=listen, args=(ECHO, echo), daemon=True).start()
    listen(ORDERS, obey)
