"""gRPC: the interop cases with Google's grpcio on both ends, and with tonic on one of them."""

import concurrent.futures
import importlib
import json
import os
import sys
import threading
import time

import grpc

from cases import case

PORT, TONIC_EMOJI, TONIC_VOTING, PYTHON_EMOJI, WEB = 50051, 50061, 50062, 50071, 50081
SERVICE = "grpc.testing.TestService"
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
STREAM_SIZES = [(27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)]
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
METADATA = (
    ("x-grpc-test-echo-initial", "test_initial_metadata_value"),
    ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab\x00\xff"),
)
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
]


def serve(site):
    """grpcio's server, and tonic's, which are the demo's services."""
    site.start(sys.executable, "-m", "groups.grpc", "interop", port=PORT)
    site.start(sys.executable, "-m", "groups.grpc", "emoji", port=PYTHON_EMOJI)
    demo = f"{os.environ['FOREIGN_BIN']}/conduit-demo"
    site.start(demo, "emoji", port=TONIC_EMOJI, env={"GRPC_PORT": str(TONIC_EMOJI)})
    site.start(demo, "voting", port=TONIC_VOTING, env={"GRPC_PORT": str(TONIC_VOTING)})


# Messages are JSON: what a proxy carries is frames, whatever is in them.
def to_bytes(message):
    return json.dumps(message).encode()


class Interop(grpc.GenericRpcHandler):
    """The server of gRPC's interop tests (grpc/doc/interop-test-descriptions.md), as far as a proxy can tell."""

    def service(self, details):
        name = details.method.removeprefix(f"/{SERVICE}/")
        make = {
            "EmptyCall": grpc.unary_unary_rpc_method_handler,
            "UnaryCall": grpc.unary_unary_rpc_method_handler,
            "StreamingInputCall": grpc.stream_unary_rpc_method_handler,
            "StreamingOutputCall": grpc.unary_stream_rpc_method_handler,
            "FullDuplexCall": grpc.stream_stream_rpc_method_handler,
        }.get(name)
        behavior = {
            "EmptyCall": lambda _request, _context: b"",
            "UnaryCall": self.unary,
            "StreamingInputCall": lambda requests, _context: to_bytes(sum(map(len, requests))),
            "StreamingOutputCall": self.outputs,
            "FullDuplexCall": self.duplex,
        }.get(name)
        return make and make(behavior)

    cancelled = threading.Event()

    @staticmethod
    def echo_metadata(context):
        for key, value in context.invocation_metadata():
            if key == "x-grpc-test-echo-initial":
                context.send_initial_metadata(((key, value),))
            if key == "x-grpc-test-echo-trailing-bin":
                context.set_trailing_metadata(((key, value),))

    def unary(self, request, context):
        self.echo_metadata(context)
        head, _, payload = request.partition(b"\n")
        wanted = json.loads(head)
        if wanted.get("time remaining"):
            return to_bytes(context.time_remaining())
        if wanted.get("was cancelled"):
            return to_bytes(self.cancelled.wait(5))
        if "status" in wanted:
            context.abort(grpc.StatusCode[wanted["status"]], wanted["message"])
        assert len(payload) == wanted["sent"]
        return bytes(wanted["size"])

    def outputs(self, request, _context):
        for size in json.loads(request):
            yield bytes(size)

    def duplex(self, requests, context):
        self.echo_metadata(context)
        type(self).cancelled = cancelled = threading.Event()
        context.add_callback(lambda: None if context.is_active() else cancelled.set())
        for request in requests:
            wanted = json.loads(request.partition(b"\n")[0])
            if "status" in wanted:
                context.abort(grpc.StatusCode[wanted["status"]], wanted["message"])
            time.sleep(wanted.get("sleep", 0))
            yield bytes(wanted["size"])


def compiled(directory):
    """The demo's messages and services, for grpcio."""
    from grpc_tools import protoc

    here = os.path.dirname(os.path.abspath(__file__))
    protos = os.path.join(here, "../../../demo/proto/emojivoto")
    arguments = ["", f"-I{protos}", f"--python_out={directory}", f"--grpc_python_out={directory}", "emojivoto.proto"]
    assert protoc.main(arguments) == 0, "the demo's proto cannot be compiled"
    sys.path.append(str(directory))
    return importlib.import_module("emojivoto_pb2"), importlib.import_module("emojivoto_pb2_grpc")


def run_server(which):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=OPTIONS)
    if which == "interop":
        server.add_generic_rpc_handlers((Interop(),))
        server.add_insecure_port(f"0.0.0.0:{PORT}")
    else:
        own = os.path.join(os.environ["FOREIGN_WORK"], os.environ["FOREIGN_POD"])
        messages, services = compiled(own)

        class Emoji(services.EmojiServiceServicer):
            def ListAll(self, request, context):
                return messages.ListAllResponse(list=[messages.Emoji(unicode="🐍", shortcode=":snake:")])

            def FindByShortcode(self, request, context):
                context.abort(grpc.StatusCode.NOT_FOUND, "there are only snakes")

        services.add_EmojiServiceServicer_to_server(Emoji(), server)
        server.add_insecure_port(f"0.0.0.0:{PYTHON_EMOJI}")
    server.start()
    server.wait_for_termination()


class Client:
    """Calls of one channel."""

    def __init__(self, site, port=PORT):
        self.channel = grpc.insecure_channel(f"{site.server}:{port}", options=OPTIONS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def unary(self, method="UnaryCall", service=SERVICE):
        return self.channel.unary_unary(f"/{service}/{method}")

    def duplex(self):
        return self.channel.stream_stream(f"/{SERVICE}/FullDuplexCall")


def request(sent=0, **wanted):
    return to_bytes({"size": 0, "sent": sent, **wanted}) + b"\n" + bytes(sent)


def failure(call):
    """Status and message of a call that has to fail."""
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("the call succeeded")


@case("empty_unary")
def empty_unary(site):
    with Client(site) as client:
        answer, call = client.unary("EmptyCall").with_call(b"")
        assert answer == b"", answer
        return [call.code().name, list(call.trailing_metadata() or ())]


@case("large_unary")
def large_unary(site):
    with Client(site) as client:
        answer = client.unary()(request(LARGE_REQUEST, size=LARGE_RESPONSE))
        assert answer == bytes(LARGE_RESPONSE), len(answer)
        return len(answer)


@case("messages of 16 MiB both ways")
def huge_unary(site):
    with Client(site) as client:
        answer = client.unary()(request(16 << 20, size=16 << 20))
        assert answer == bytes(16 << 20), len(answer)
        return len(answer)


@case("client_streaming")
def client_streaming(site):
    with Client(site) as client:
        sizes = [size for size, _ in STREAM_SIZES]
        call = client.channel.stream_unary(f"/{SERVICE}/StreamingInputCall")
        total = json.loads(call(bytes(size) for size in sizes))
        assert total == sum(sizes), total
        return total


@case("server_streaming")
def server_streaming(site):
    with Client(site) as client:
        sizes = [size for _, size in STREAM_SIZES]
        call = client.channel.unary_stream(f"/{SERVICE}/StreamingOutputCall")
        saw = [len(answer) for answer in call(to_bytes(sizes))]
        assert saw == sizes, saw
        return saw


@case("server_streaming of 1000 messages to a slow reader")
def slow_reader(site):
    with Client(site) as client:
        call = client.channel.unary_stream(f"/{SERVICE}/StreamingOutputCall")
        count = 0
        for answer in call(to_bytes([20_000] * 1000)):
            assert len(answer) == 20_000
            count += 1
            if count % 250 == 0:
                time.sleep(0.3)
        assert count == 1000, count
        return count


@case("ping_pong")
def ping_pong(site):
    """Each request is sent when the answer to the one before has come: nothing may be held back."""
    with Client(site) as client:
        answered = threading.Semaphore(1)

        def requests():
            for sent, size in STREAM_SIZES:
                answered.acquire()
                yield request(sent, size=size)

        saw = []
        for answer in client.duplex()(requests()):
            saw.append(len(answer))
            answered.release()
        assert saw == [size for _, size in STREAM_SIZES], saw
        return saw


@case("empty_stream")
def empty_stream(site):
    with Client(site) as client:
        saw = list(client.duplex()(iter(())))
        assert not saw, saw
        return saw


def was_cancelled(client):
    """Whether the server noticed that the last duplex call was."""
    return json.loads(client.unary()(to_bytes({"was cancelled": True})))


@case("cancel_after_begin")
def cancel_after_begin(site):
    with Client(site) as client:
        call = client.channel.stream_unary(f"/{SERVICE}/StreamingInputCall").future(iter(threading.Event().wait, True))
        time.sleep(0.2)
        call.cancel()
        assert call.code() == grpc.StatusCode.CANCELLED, call.code()
        return call.code().name


@case("cancel_after_first_response, and the server is told")
def cancel_after_first_response(site):
    with Client(site) as client:
        over = threading.Event()

        def requests():
            yield request(size=31_415)
            over.wait(10)

        call = client.duplex()(requests())
        first = len(next(call))
        call.cancel()
        told = was_cancelled(client)
        over.set()
        assert (first, call.code(), told) == (31_415, grpc.StatusCode.CANCELLED, True), (first, call.code(), told)
        return [first, call.code().name, told]


@case("timeout_on_sleeping_server, and the server is told")
def timeout_on_sleeping_server(site):
    with Client(site) as client:
        call = client.duplex()(iter([request(27_182, size=1), request(sleep=2, size=1)]), timeout=1)
        saw = failure(lambda: list(call))
        told = was_cancelled(client)
        assert saw[0] == "DEADLINE_EXCEEDED" and told, (saw, told)
        # The message is grpcio's own, and depends on whether the client or the server was faster.
        return [saw[0], told]


@case("deadline: grpc-timeout reaches the server")
def deadline(site):
    with Client(site) as client:
        remaining = json.loads(client.unary()(to_bytes({"time remaining": True}), timeout=20))
        assert 15 < remaining <= 20, remaining
        return "as it was sent"


@case("custom_metadata, also binary")
def custom_metadata(site):
    saw = []
    with Client(site) as client:
        _, unary = client.unary().with_call(request(size=1), metadata=METADATA)
        duplex = client.duplex()(iter([request(size=1)]), metadata=METADATA)
        assert len(list(duplex)) == 1
        for call in (unary, duplex):
            initial = [list(pair) for pair in call.initial_metadata()]
            trailing = [[key, value.hex()] for key, value in call.trailing_metadata()]
            assert list(METADATA[0]) in initial, initial
            assert [METADATA[1][0], METADATA[1][1].hex()] in trailing, trailing
            saw.append([sorted(initial), sorted(trailing)])
    return saw


@case("status_code_and_message")
def status_code_and_message(site):
    with Client(site) as client:
        wanted = request(status="UNKNOWN", message="test status message")
        saw = [failure(lambda: client.unary()(wanted)), failure(lambda: list(client.duplex()(iter([wanted]))))]
        assert saw == [["UNKNOWN", "test status message"]] * 2, saw
        return saw


@case("every status code")
def every_status(site):
    with Client(site) as client:
        codes = [code.name for code in grpc.StatusCode if code != grpc.StatusCode.OK]
        saw = [failure(lambda code=code: client.unary()(request(status=code, message=f"it is {code}"))) for code in codes]
        assert saw == [[code, f"it is {code}"] for code in codes], saw
        return saw


@case("special_status_message")
def special_status_message(site):
    with Client(site) as client:
        saw = failure(lambda: client.unary()(request(status="UNKNOWN", message=SPECIAL)))
        assert saw == ["UNKNOWN", SPECIAL], saw
        return saw


@case("unimplemented_method and unimplemented_service")
def unimplemented(site):
    with Client(site) as client:
        saw = [
            failure(lambda: client.unary("UnimplementedCall")(b"")),
            failure(lambda: client.unary("EmptyCall", "grpc.testing.NobodysService")(b"")),
        ]
        assert [code for code, _ in saw] == ["UNIMPLEMENTED"] * 2, saw
        return saw


@case("compressed messages")
def compressed(site):
    with Client(site) as client:
        call = client.unary()
        answer = call(request(LARGE_REQUEST, size=LARGE_RESPONSE), compression=grpc.Compression.Gzip)
        assert answer == bytes(LARGE_RESPONSE), len(answer)
        return len(answer)


@case("100 calls at once on one channel")
def concurrent_calls(site):
    with Client(site) as client:
        calls = [client.unary().future(request(1000, size=1000 + i)) for i in range(100)]
        saw = [len(call.result()) for call in calls]
        assert saw == [1000 + i for i in range(100)], saw
        return saw


@case("grpcio calls tonic")
def tonic_server(site):
    messages, services = compiled(site.own)
    with Client(site, TONIC_EMOJI) as emoji, Client(site, TONIC_VOTING) as voting:
        find = services.EmojiServiceStub(emoji.channel).FindByShortcode
        found = find(messages.FindByShortcodeRequest(shortcode=":doughnut:")).emoji
        listed = services.EmojiServiceStub(emoji.channel).ListAll(messages.ListAllRequest()).list
        stub = services.VotingServiceStub(voting.channel)
        poop = failure(lambda: stub.VotePoop(messages.VoteRequest()))
        assert found.unicode == "🍩" and len(listed) > 10 and poop[0] == "UNKNOWN", (found, len(listed), poop)
        stub.VoteDog(messages.VoteRequest())
        unknown = failure(lambda: voting.unary("VoteNobody", "emojivoto.v1.VotingService")(b""))
        return [found.unicode, [emoji.shortcode for emoji in listed], poop, unknown]


@case("tonic calls grpcio")
def tonic_client(site):
    """The demo's website asks our emoji; nothing that it is asked here needs the voting."""
    services = {"EMOJISVC_HOST": f"{site.server}:{PYTHON_EMOJI}", "VOTINGSVC_HOST": f"{site.server}:{TONIC_VOTING}"}
    web = site.start(f"{os.environ['FOREIGN_BIN']}/conduit-demo", "web", port=WEB, env={"WEB_PORT": str(WEB), **services})
    try:
        listed = json.loads(site.curl(f"http://127.0.0.1:{WEB}/api/list"))
        vote = site.curl("-w", " %{http_code}", f"http://127.0.0.1:{WEB}/api/vote?choice=:doughnut:").decode()
        assert ":snake:" in json.dumps(listed), listed
        return [listed, vote]
    finally:
        web.terminate()
        web.wait()


if __name__ == "__main__":
    run_server(sys.argv[1])
