"""WebSocket: Autobahn's test suite, and `websockets` on both ends, also over TLS."""

import asyncio
import json
import os
import ssl
import sys

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cases import LeftOut, case

PORT, TLS_PORT, AUTOBAHN = 9001, 9443, 9002
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]


def serve(site):
    """`websockets`, with and without TLS, and Autobahn's own server."""
    site.start(sys.executable, "-m", "groups.websocket", site.shared / "server.pem", port=TLS_PORT)
    if os.environ["FOREIGN_PYTHON2"]:
        site.start(*wstest("--mode", "echoserver", "--wsuri", f"ws://0.0.0.0:{AUTOBAHN}"), port=AUTOBAHN)


def wstest(*arguments):
    """Autobahn's command, whose packages are not where Python looks by itself."""
    python, packages = os.environ["FOREIGN_PYTHON2"], os.environ["FOREIGN_PYTHON2_PACKAGES"]
    if not python:
        raise LeftOut("Autobahn's test suite needs a Python 2.7 with pip, and there is none on the path nor of pyenv")
    start = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite import wstest; wstest.run()"
    return python, "-c", start, packages, *arguments


async def echo(connection):
    """Sends back what comes; some messages are orders. Bad frames are the library's business."""
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            code, reason = message.split(" ", 2)[1:]
            await connection.close(int(code), reason)
        elif message == "subprotocol":
            await connection.send(str(connection.subprotocol))
        elif message == "ping me":
            waiter = await connection.ping(b"are you there?")
            await connection.send(f"pong after {await waiter >= 0}")
        elif message == "in fragments":
            await connection.send(["in ", "three ", "fragments"])
        else:
            await connection.send(message)


async def refuse(connection, request):
    """A handshake that fails."""
    if request.path == "/forbidden":
        return connection.respond(403, "not you\n")
    return None


def select(_connection, offered):
    """The first that we know; clients that offer none are welcome too."""
    return next((name for name in offered if name in ("one", "two")), None)


async def run_server(certificate):
    """Never returns."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    options = {"max_size": 64 << 20, "select_subprotocol": select, "process_request": refuse, "ping_interval": None}
    async with (
        websockets.serve(echo, "0.0.0.0", PORT, **options),
        websockets.serve(echo, "0.0.0.0", TLS_PORT, ssl=tls, **options),
    ):
        await asyncio.get_running_loop().create_future()


def client(site, talk, tls=False, path="/", **options):
    """What `talk(connection)` returns."""
    scheme, port, context = "ws", PORT, None
    if tls:
        scheme, port = "wss", TLS_PORT
        context = ssl.create_default_context(cafile=site.shared / "ca.pem")

    async def connected():
        url = f"{scheme}://{site.server}:{port}{path}"
        async with websockets.connect(url, ssl=context, max_size=64 << 20, proxy=None, **options) as connection:
            return await talk(connection)

    return asyncio.run(connected())


async def echoes(connection):
    for size in SIZES:
        text = ("ä€😀x" * (size // 4 + 1))[:size]
        for message in (text, os.urandom(size)):
            await connection.send(message)
            assert await connection.recv() == message, f"{size} bytes did not come back as they were"
    return [SIZES, str(connection.protocol.extensions)]


@case("echo of text and binary of 0 B to 1 MiB")
def plain_echo(site):
    return client(site, echoes, compression=None)


@case("echo with permessage-deflate")
def deflated_echo(site):
    saw = client(site, echoes)
    assert "PerMessageDeflate" in saw[1], saw
    return saw


@case("wss: echo through TLS of their own")
def secure_echo(site):
    return client(site, echoes, tls=True)


@case("fragments in both directions")
def fragments(site):
    async def talk(connection):
        await connection.send(["one", "", "two" * 50_000, "three"])
        sent = await connection.recv()
        assert sent == "one" + "two" * 50_000 + "three"
        await connection.send("in fragments")
        return [part async for part in connection.recv_streaming()]

    return client(site, talk, compression=None)


@case("ping and pong in both directions")
def pings(site):
    async def talk(connection):
        assert await (await connection.ping(b"x" * 125)) >= 0
        await connection.send("ping me")
        return await connection.recv()

    return client(site, talk)


@case("close codes and reasons in both directions")
def close_codes(site):
    saw = []
    for code in (1000, 1001, 1003, 1007, 1008, 1009, 1011, 3000, 4999):

        async def by_server(connection, code=code):
            await connection.send(f"close {code} because of {code}")
            try:
                return await connection.recv()
            except ConnectionClosed as closed:
                return [closed.rcvd.code, closed.rcvd.reason]

        async def by_client(connection, code=code):
            await connection.close(code, "enough")
            return [connection.close_code, connection.close_reason]

        told = client(site, by_server)
        assert told == [code, f"because of {code}"], told
        saw += [told, client(site, by_client)]
    return saw


@case("invalid UTF-8 is refused with 1007")
def invalid_utf8(site):
    async def talk(connection):
        await connection.send(b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80", text=True)
        try:
            return await connection.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code

    saw = client(site, talk, compression=None)
    assert saw == 1007, saw
    return saw


@case("subprotocol is agreed on")
def subprotocol(site):
    async def talk(connection):
        await connection.send("subprotocol")
        return [connection.subprotocol, await connection.recv()]

    saw = client(site, talk, subprotocols=["none", "two", "one"])
    assert saw[0] == saw[1] != "None", saw
    return saw


@case("a refused handshake has its status and body")
def refused(site):
    async def talk(_):
        return "was let in"

    try:
        return client(site, talk, path="/forbidden")
    except InvalidStatus as error:
        saw = [error.response.status_code, error.response.body.decode()]
        assert saw == [403, "not you\n"], saw
        return saw


@case("silent for 6 s, then goes on")
def idle(site):
    async def talk(connection):
        await asyncio.sleep(6)
        await connection.send("still here")
        return await connection.recv()

    return client(site, talk, ping_interval=None)


def autobahn(site, port, numbers):
    """The verdicts of Autobahn's test suite on a server: what matters here is that they are the same through the mesh."""
    saw = fuzz(site, port, numbers)
    # Cases wait half a second for an answer, which a busy machine may need for itself: what fails, fails twice.
    if bad := [name for name, verdict in saw.items() if not FINE.issuperset(verdict[:2])]:
        saw |= fuzz(site, port, bad)
    bad = {name: verdict for name, verdict in saw.items() if not FINE.issuperset(verdict[:2])}
    assert not bad, bad
    return saw


# Autobahn's words for what is as it should be, or not specified.
FINE = {"OK", "INFORMATIONAL"}
# Whether an answer still comes before a connection that fails depends on how bytes arrive together: not strict is good enough.
GOOD_ENOUGH = {"NON-STRICT": "OK"}


def fuzz(site, port, numbers):
    """Verdicts of these cases: on the behaviour, on how the connection was closed, and the server's close code."""
    reports = site.own / f"autobahn-{port}"
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": "server", "url": f"ws://{site.server}:{port}"}],
        "cases": numbers,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = site.own / f"autobahn-{port}.json"
    path.write_text(json.dumps(specification))
    site.run(*wstest("--mode", "fuzzingclient", "--spec", path), seconds=110)
    verdicts = json.loads((reports / "index.json").read_text())["server"]
    return {
        name: [GOOD_ENOUGH.get(v["behavior"], v["behavior"]), v["behaviorClose"], v["remoteCloseCode"]]
        for name, v in verdicts.items()
    }


@case("Autobahn's test suite, all but compression: 301 cases", seconds=120)
def autobahn_protocol(site):
    saw = autobahn(site, AUTOBAHN, [f"{chapter}.*" for chapter in (1, 2, 3, 4, 5, 6, 7, 9, 10)])
    assert len(saw) == 301, len(saw)
    return saw


@case("Autobahn's test suite, compression: 16 cases", seconds=120)
def autobahn_compression(site):
    """The smaller ones of each kind: they are alike but for sizes, and many."""
    numbers = [f"{chapter}.{kind}.{size}" for chapter in (12, 13) for kind in (1, 2, 3, 4) for size in (2, 3)]
    saw = autobahn(site, PORT, numbers)
    assert len(saw) == 16, len(saw)
    return saw


if __name__ == "__main__":
    asyncio.run(run_server(sys.argv[1]))
