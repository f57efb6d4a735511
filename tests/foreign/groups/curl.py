"""HTTP of every version: curl, nghttp and h2load against nginx, nghttpd, nghttpx and Python, also through tinyproxy."""

import hashlib
import http.server
import json
import re
import sys
import time

from cases import case

NGINX, NGINX_H2, NGINX_TLS, PYTHON, NGHTTPD, NGHTTPX = 8080, 8081, 8443, 8082, 8090, 8091
LARGE = 32 << 20
# What is different at every request.
NOT_COMPARED = {"date", "last-modified", "etag"}
# How a message is framed, and whether its connection is kept, is a matter between neighbours (RFC 9110 section 7.6.1, RFC 9112
# section 6.1). What comes of it is judged by cases of its own: bodies are complete, and connections kept or not.
BETWEEN_NEIGHBOURS = {"connection: keep-alive", "connection: close", "transfer-encoding: chunked"}


def serve(site):
    """All of them serve the same directory, but for Python's, which tells what it was asked."""
    root = site.own / "www"
    root.mkdir()
    (root / "index.html").write_text("hello from the server\n")
    (root / "large").write_bytes((site.shared / "large").read_bytes())
    (root / "text.txt").write_text("compress me, please\n" * 5000)
    configuration = site.own / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off; worker_processes 1; user root; pid {site.own}/nginx.pid; error_log {site.own}/nginx-error.log;
        events {{ worker_connections 512; }}
        http {{
            access_log off; client_body_temp_path {site.own}/body; proxy_temp_path {site.own}/proxy;
            fastcgi_temp_path {site.own}/fastcgi; uwsgi_temp_path {site.own}/uwsgi; scgi_temp_path {site.own}/scgi;
            client_max_body_size 100m; if_modified_since before; 
            gzip on; gzip_types text/plain; default_type application/octet-stream; types {{ text/plain txt; }}
            server {{
                listen {NGINX}; listen {NGINX_H2} http2; listen {NGINX_TLS} ssl http2;
                ssl_certificate {site.shared}/server.pem; ssl_certificate_key {site.shared}/server.pem;
                root {root};
                location = /204 {{ return 204; }}
                location = /redirect {{ return 302 /index.html; }}
                location = /500 {{ return 500 "it failed\\n"; }}
                location = /version {{ return 200 "$server_protocol $http_host\\n"; }}
                location = /close {{ keepalive_timeout 0; return 200 "bye\\n"; }}
            }}
        }}
        """
    )
    site.start("nginx", "-c", configuration, "-e", site.own / "nginx-error.log", port=NGINX)
    site.start("nghttpd", "--no-tls", "--echo-upload", "--trailer=x-checked: yes", "-d", root, NGHTTPD, port=NGHTTPD)
    site.start("nghttpx", f"--frontend=*,{NGHTTPX};no-tls", f"--backend=127.0.0.1,{NGINX}", "--workers=1", port=NGHTTPX)
    site.start(sys.executable, "-m", "groups.curl", port=PYTHON)


# How Teller's answers begin.
TOLD = '{"method"'


class Teller(http.server.BaseHTTPRequestHandler):
    """Tells the client what came."""

    protocol_version = "HTTP/1.1"

    def body(self):
        """Content and trailers."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0)), []
        content, trailers = b"", []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        while line := self.rfile.readline().strip():
            trailers.append(line.decode())
        return content, trailers

    def tell(self):
        content, trailers = self.body()
        told = {
            "method": self.command,
            "target": self.path,
            "version": self.request_version,
            "headers": sorted([name.lower(), value] for name, value in self.headers.items()),
            "length": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "trailers": trailers,
        }
        self.answer(200, json.dumps(told).encode())

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        if self.path == "/trailers":
            self.send_response(200)
            self.send_header("Trailer", "X-Sum, X-Other")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"6\r\nchunk \r\n6\r\nchunk\n\r\n0\r\nX-Sum: 12\r\nX-Other: a b\r\n\r\n")
        elif self.path == "/until-close":
            # As servers of HTTP/1.0 do: neither length nor chunks.
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"until the end\n" * 1000)
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"and no more")
            self.close_connection = True
        elif self.path == "/early-hints":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
            self.answer(200, b"late\n")
        elif self.path == "/odd-headers":
            self.send_response_only(299, "Fine, I Suppose")
            for field in ("X-Twice: one", "x-tWICE: two", "X-Empty:", "X-Latin: caf\xe9", "Set-Cookie: a=1", "Set-Cookie: b=2"):
                self.send_header(*field.split(":"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/drip":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(4):
                self.wfile.write(b"5\r\ndrip\n\r\n")
                time.sleep(0.3)
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/304":
            self.send_response(304)
            self.send_header("ETag", '"abc"')
            self.end_headers()
        else:
            self.tell()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_PROPFIND = do_BREW = do_HEAD = tell

    def do_DENY(self):
        """Refuses without reading the body."""
        self.close_connection = True
        self.answer(413, b"too much\n", Connection="close")

    def handle_expect_100(self):
        if self.path == "/refuse":
            self.do_DENY()
            return False
        return super().handle_expect_100()

    def log_message(self, *_):
        pass


def compared(name, value):
    """Whether a header has to be the same."""
    return name.lower() not in NOT_COMPARED and f"{name}: {value}".lower() not in BETWEEN_NEIGHBOURS


def heads_of(text):
    """Each head that curl received, and trailers: the first line, then the others by name, which stay in order within one.

    Names are compared in lower case: in HTTP they are the same.
    """
    heads = []
    for head in filter(None, (head.strip() for head in text.replace("\r", "").split("\n\n"))):
        lines = head.split("\n")
        # Trailers have no first line of their own.
        first = lines.pop(0) if lines[0].startswith("HTTP/") else "trailers"
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        fields = sorted((field for field in fields if compared(*field)), key=lambda field: field[0])
        heads.append([first, *(f"{name}: {value}" for name, value in fields)])
    return heads


def get(site, *arguments, port=NGINX, path="/index.html", scheme="http", server=None, **options):
    """Heads, body and what curl says of it."""
    head, body = site.own / "head", site.own / "body"
    for file in (head, body):
        file.write_bytes(b"")
    form = "%{http_code} %{http_version} %{errormsg}"
    files = ("--dump-header", head, "--output", body, "--write-out", form)
    url = f"{scheme}://{server or site.server}:{port}{path}"
    command = ("curl", "--silent", "--max-time", "25", *files, *arguments, url)
    code, said, complaint = site.run(*command, ok=False, **options)
    # Of HEAD curl says the head again.
    content = b"" if "--head" in arguments else body.read_bytes()
    text = site.plain(content.decode("latin-1")) if len(content) < 3000 else hashlib.sha256(content).hexdigest()
    saw = {
        "exit": code,
        "curl says": site.plain(said.decode() + complaint.decode()).strip(),
        "heads": heads_of(site.plain(head.read_bytes().decode("latin-1"))),
        "length": len(content),
        "body": text,
    }
    if text.startswith(TOLD):
        # What Teller was told, whose length follows from it.
        saw["body"] = told = json.loads(text)
        told["headers"] = [field for field in told["headers"] if compared(*field)]
        del saw["length"]
        saw["heads"] = [[line for line in lines if not line.startswith("content-length:")] for lines in saw["heads"]]
    return saw


def succeeded(saw, body=None):
    assert saw["exit"] == 0, saw
    assert body is None or saw["body"] == body, saw
    return saw


HELLO = "hello from the server\n"


def fine(*arguments, body=HELLO, status=None, **options):
    """A case that is one request, which succeeds."""

    def ask(site):
        saw = succeeded(get(site, *arguments, **options), body)
        assert status is None or saw["heads"][-1][0].split()[1] == str(status), saw
        return saw

    return ask


for option, port, server in (
    ("--http1.0", NGINX, "nginx"),
    ("--http1.1", NGINX, "nginx"),
    ("--http2", NGINX, "nginx, which does not upgrade"),
    ("--http2", NGHTTPX, "nghttpx, which upgrades to h2c"),
    ("--http2-prior-knowledge", NGINX_H2, "nginx"),
):
    case(f"curl {option}, {server}")(fine(option, port=port, status=200))
    case(f"curl {option} --head, {server}")(fine(option, "--head", port=port, body=None, status=200))
    case(f"curl {option}, 204, {server}")(fine(option, port=port, path="/204", body="", status=204))
    case(f"curl {option}, the version that the server sees, {server}")(fine(option, port=port, path="/version", body=None))
    # curl's buffer cannot hold what nghttpx sends at once after an upgrade.
    if port != NGHTTPX:
        case(f"curl {option}, 32 MiB, {server}")(fine(option, port=port, path="/large", body=None, status=200))

case("curl --http1.0, what the server is told")(fine("--http1.0", port=PYTHON, body=None))
case("curl --http1.0 keep-alive")(fine("--http1.0", "-H", "Connection: keep-alive", port=PYTHON, body=None))
case("curl, what the server is told")(
    fine("-H", "X-One: 1", "-H", "X-Two: a, b", "-A", "", port=PYTHON, path="/a%20b/../c?d=%2F&e", body=None)
)
case("curl --path-as-is")(fine("--path-as-is", port=PYTHON, path="/a/../b//c/./d", body=None))
case("curl, another Host")(fine("-H", "Host: example.org", port=PYTHON, body=None))
case("curl, redirect followed")(fine("--location", path="/redirect"))
case("curl, 404")(fine(path="/missing", body=None, status=404))
case("curl, 500 with a body")(fine(path="/500", body="it failed\n", status=500))
case("curl, Connection: close by the server")(fine(path="/close", body="bye\n"))
case("curl, Connection: close by the client")(fine("-H", "Connection: close", path="/version", body=None))
case("curl --range")(fine("--range", "6-9", body="from", status=206))
case("curl --compressed")(fine("--compressed", path="/text.txt", body=None))
case("curl, 304")(fine("-H", 'If-None-Match: "abc"', port=PYTHON, path="/304", body="", status=304))
case("curl, 304 of nginx")(fine("--time-cond", "Tue, 01 Jan 2030 00:00:00 GMT", body="", status=304))
case("curl, trailers of HTTP/1.1")(fine(port=PYTHON, path="/trailers", body="chunk chunk\n"))
case("curl, trailers of HTTP/1.1 that are asked for")(
    fine("-H", "TE: trailers", port=PYTHON, path="/trailers", body="chunk chunk\n")
)
case("curl, body until the connection ends")(fine(port=PYTHON, path="/until-close", body=None))
case("curl, 103 Early Hints")(fine(port=PYTHON, path="/early-hints", body="late\n"))
case("curl, headers that are odd but allowed")(fine(port=PYTHON, path="/odd-headers", body=""))
METHODS = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "BREW")
case("curl, methods, also unknown ones")(lambda site: [succeeded(get(site, "-X", method, port=PYTHON)) for method in METHODS])
case("curl, OPTIONS *")(fine("-X", "OPTIONS", "--request-target", "*", port=PYTHON, body=None))
case("curl, POST of nothing")(fine("-d", "", port=PYTHON, body=None))
case("curl, DELETE with a body")(fine("-X", "DELETE", "-d", "why", port=PYTHON, body=None))


@case("curl, a response that is cut off is an error")
def cut(site):
    saw = get(site, port=PYTHON, path="/cut")
    assert saw["exit"] == 18, saw
    return saw


@case("curl, a drip is not held back")
def drip(site):
    """The first of four parts comes before the last is sent."""
    saw = get(site, "--no-buffer", "--max-time", "0.7", port=PYTHON, path="/drip")
    assert 5 <= saw["length"] <= 15, saw
    return saw["heads"]


@case("curl, chunked upload (-T -)")
def chunked_upload(site):
    saw = succeeded(get(site, "-T", "-", port=PYTHON, path="/upload", stdin=b"piece" * 100_000))
    assert saw["body"]["length"] == 500_000, saw
    return saw


@case("curl, Expect: 100-continue")
def expect(site):
    saw = succeeded(get(site, "-H", "Expect: 100-continue", "-d", "x" * 2000, port=PYTHON, path="/upload"))
    assert len(saw["heads"]) == 2 and "100" in saw["heads"][0][0] and saw["body"]["length"] == 2000, saw
    return saw


@case("curl, Expect: 100-continue that is refused")
def expect_refused(site):
    """The body is not sent."""
    saw = succeeded(get(site, "-H", "Expect: 100-continue", "-T", site.shared / "large", port=PYTHON, path="/refuse"))
    assert len(saw["heads"]) == 1 and " 413" in saw["heads"][0][0], saw
    return saw


@case("curl, upload of 32 MiB")
def upload(site):
    saw = succeeded(get(site, "-T", site.shared / "large", port=PYTHON, path="/upload"))
    assert saw["body"]["sha256"] == hashlib.sha256((site.shared / "large").read_bytes()).hexdigest(), saw
    return saw


@case("curl --http2-prior-knowledge, upload of 32 MiB to nghttpd")
def upload_h2(site):
    upload = ("--http2-prior-knowledge", "--data-binary", f"@{site.shared / 'large'}")
    saw = succeeded(get(site, *upload, port=NGHTTPD, path="/echo"))
    assert saw["length"] == LARGE, saw
    return saw


def connections(site, *paths, options=()):
    """How many connections curl needs for each of these requests."""
    urls = [f"http://{site.server}:{NGINX}{path}" for path in paths]
    said = site.curl(*options, "--write-out", "\nconnections %{num_connects}\n", *urls).decode()
    return [int(count) for count in re.findall(r"^connections (\d)$", said, re.MULTILINE)]


@case("curl, ten requests on one connection")
def kept(site):
    saw = connections(site, *["/index.html"] * 10)
    assert saw == [1] + [0] * 9, saw
    return saw


@case("curl --http1.0, a connection that is kept only if the client asks for it")
def kept_if_asked(site):
    keep = ("--header", "Connection: keep-alive")
    saw = [connections(site, "/204", "/204", options=("--http1.0", *more)) for more in ((), keep)]
    assert saw == [[1, 1], [1, 0]], saw
    return saw


for option in ("--http1.1", "--http2"):

    @case(f"curl {option} https: nginx's own certificate")
    def https(site, option=option):
        """Only the suite's authority is trusted: a TLS that ends on the way would not verify."""
        return succeeded(get(site, option, "--cacert", site.shared / "ca.pem", port=NGINX_TLS, scheme="https"), HELLO)


def through(forward, server, name, *arguments, **options):
    """Cases of one way through tinyproxy. The site's own proxy, or one without a mesh for a client in it."""

    def ask(site, *more, **where):
        proxy = f"http://{forward(site)}:3128"
        return get(site, "--proxy", proxy, *arguments, *more, server=server(site), **{**options, **where})

    @case(f"forward proxy, {name}: absolute form")
    def absolute(site):
        return succeeded(ask(site), HELLO)

    @case(f"forward proxy, {name}: absolute form, what the server is told")
    def absolute_told(site):
        return succeeded(ask(site, port=PYTHON, path="/told?a=b"))

    @case(f"forward proxy, {name}: POST")
    def post(site):
        return succeeded(ask(site, "-d", "x" * 5000, port=PYTHON, path="/told"))

    @case(f"forward proxy, {name}: CONNECT, plain within")
    def connect(site):
        return succeeded(ask(site, "--proxytunnel"), HELLO)

    @case(f"forward proxy, {name}: CONNECT, https within")
    def connect_tls(site):
        return succeeded(ask(site, "--cacert", site.shared / "ca.pem", port=NGINX_TLS, scheme="https"), HELLO)

    @case(f"forward proxy, {name}: CONNECT, 32 MiB of https")
    def connect_large(site):
        saw = succeeded(ask(site, "--cacert", site.shared / "ca.pem", port=NGINX_TLS, scheme="https", path="/large"))
        assert saw["length"] == LARGE, saw
        return saw

    @case(f"forward proxy, {name}: CONNECT to nobody")
    def connect_nobody(site):
        saw = get(site, "--proxytunnel", "--proxy", f"http://{forward(site)}:3128", server="nobody.foreign")
        assert saw["exit"] == 56 and "500" in saw["curl says"], saw
        return saw


through(lambda site: site.forward, lambda site: site.server, "all in the mesh")
through(lambda _: "forward-direct.foreign", lambda _: "server-direct.foreign", "only the client in the mesh")
through(lambda _: "forward-direct.foreign", lambda site: site.server, "proxy outside")


@case("nghttp, nghttpd: heads, body, trailers")
def nghttp(site):
    """Frames are between neighbours; what they carry is not."""
    said = site.run("nghttp", "--verbose", "--no-dep", f"http://{site.server}:{NGHTTPD}/index.html").decode()
    fields = re.findall(r"recv \(stream_id=\d+[^)]*\) (?:\x1b\[[\d;]*m)?([^\n]+)", re.sub(r"\x1b\[[\d;]*m", "", said))
    saw = sorted(field for field in fields if field.split(":")[0] not in NOT_COMPARED)
    assert HELLO in said and "x-checked: yes" in saw and ":status: 200" in saw, said
    return saw


@case("nghttp, nghttpd: upload with trailers comes back")
def nghttp_upload(site):
    url = f"http://{site.server}:{NGHTTPD}/echo"
    got = site.run("nghttp", "--data", site.shared / "large", "--trailer", "x-sum: 1", "--header", ":method: POST", url)
    assert got == (site.shared / "large").read_bytes(), len(got)
    return len(got)


@case("nghttp, nghttpd: a large window and many streams")
def nghttp_multiply(site):
    url = f"http://{site.server}:{NGHTTPD}/text.txt"
    got = site.run("nghttp", "--multiply", "50", "--window-bits", "20", "--connection-window-bits", "24", url)
    # They come mixed.
    assert len(got) == 20 * 5000 * 50 and got.count(b"please") > 200_000, len(got)
    return len(got)


@case("nghttp --upgrade (h2c upgrade), nghttpx")
def nghttp_upgrade(site):
    got = site.run("nghttp", "--upgrade", f"http://{site.server}:{NGHTTPX}/index.html").decode()
    assert got == HELLO, f"{got!r} instead of {HELLO!r}"
    return got


def load(name, *arguments, port, path="/index.html", requests=2000):
    @case(f"h2load, {name}")
    def h2load(site):
        said = site.run("h2load", "-n", requests, *arguments, f"http://{site.server}:{port}{path}").decode()
        saw = re.findall(r"^(?:requests|status codes): .*", said, re.MULTILINE)
        assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in saw[0] and f"{requests} 2xx" in saw[1], saw
        return saw


load("nghttpd: 2000 requests, 2 connections, 20 streams", "-c2", "-m20", port=NGHTTPD)
# Its connections end after 1000 requests each, by GOAWAY: no request may be lost by that.
load("nginx h2c: 2000 requests, 2 connections, 100 streams", "-c2", "-m100", port=NGINX_H2)
load("nginx HTTP/1.1: 2000 requests, 10 connections", "--h1", "-c10", port=NGINX)
load("nginx HTTP/1.1: 2000 requests, pipelined by 8", "--h1", "-c2", "-m8", port=NGINX)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("0.0.0.0", PYTHON), Teller).serve_forever()
