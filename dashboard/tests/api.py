"""What the public API says of itself, held against what it does: `api.py URL SOCKET`, where the one has it in JSON and the other in gRPC;
`api.py URL` makes another controller the leader, by a server that changes things as well.

Run by `dashboard/tests/api`, over the demo. Ends with an error at the first thing that is not as it is described.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc
import jsonschema_rs
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2

API = "conduit.public.v1.Api"
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
# What comes at once, or not at all.
SECONDS = 15

VIEWS = ["view=overview", "view=table&kind=pod", "view=resource&kind=deployment&namespace=emojivoto&name=web",
         "view=routes", "view=control", "view=events"]


def main(url, socket=None):
    at = url + "/api/v1/openapi.json"
    document = json.load(get(at))
    is_as_kept(document, changes=socket is None)
    server = urllib.parse.urljoin(at, document["servers"][0]["url"])
    if socket is None:
        another_leader(document, server)
        return
    for path, item in document["paths"].items():
        for http, operation in item.items():
            if http == "post":
                answers(document, server, path, operation)
    for query in VIEWS:
        events(document, url, query)
    refusals(document, url)
    for service in REFLECTION:
        reflection(service, socket)


def is_as_kept(document, changes):
    with open("api/openapi.json", encoding="utf-8") as kept:
        kept = json.load(kept)
    paths = {path: item for path, item in kept["paths"].items() if changes or "changes" not in next(iter(item.values()))["tags"]}
    assert document["paths"] == paths, "what is served is not what api/openapi.json says"
    for kind, kept in kept["components"].items():
        served = document["components"][kind]
        # What only changes need is not there where there are none.
        assert served == {name: kept.get(name) for name in served}, f"{kind} are not what api/openapi.json says"
        assert not changes or served.keys() == kept.keys(), f"{kind}: {kept.keys() - served.keys()} are missing"


def another_leader(document, server):
    """The answer, and that it comes true."""
    operation = document["paths"]["/TransferLeader"]["post"]
    validator = checker(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
    as_json = {"content_type": "application/json"}
    status = json.load(get(server + "/RaftStatus", {}, **as_json))
    member = next(member for member in status["members"] if member["role"] == "follower")
    validator.validate(json.load(get(server + "/TransferLeader", {"member": member["name"]}, **as_json)))
    until = time.monotonic() + 60
    while json.load(get(server + "/RaftStatus", {}, **as_json))["leaderId"] != member["id"]:
        assert time.monotonic() < until, f"{member['name']} does not lead"
        time.sleep(0.2)
    print(f"TransferLeader: {member['name']} leads, and the answer is as described")


def get(url, body=None, **headers):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SECONDS)


def checker(document, schema):
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


def answers(document, server, path, operation):
    name = operation["operationId"]
    question = operation["requestBody"]["content"]["application/json"].get("example", {})
    for kind, content in operation["responses"]["200"]["content"].items():
        validator = checker(document, content["schema"])
        if kind == "application/json":
            validator.validate(answer := filled(server + path, question))
            print(f"{name}: {len(json.dumps(answer))} bytes are as described")
            continue
        with get(server + path, question, content_type="application/json", accept=kind) as response:
            assert response.headers["content-type"] == kind, response.headers["content-type"]
            count, kinds = 0, set()
            for line in response:
                if not line.strip():
                    continue
                validator.validate(line := json.loads(line.removeprefix(b"data: ")))
                count, kinds = count + 1, kinds | line.keys()
                # A tap has no end: a request, its response and its end are enough.
                if kinds >= {"requestInit", "responseInit", "responseEnd"}:
                    break
            assert count and "error" not in kinds, f"{name}: {count} lines with {kinds}"
            print(f"{name}: {count} lines of {kind} are as described")


def filled(url, question):
    """The answer, when there is something in it that is counted: the demo has just started."""
    until = time.monotonic() + 60
    while True:
        with get(url, question, content_type="application/json") as response:
            assert response.headers["content-type"] == "application/json"
            answer = json.load(response)
        counted = [answer[name] for name in ("rows", "edges", "pods") if name in answer]
        if all(counted) and (not question.get("by") or any(row.get("stats") for row in answer["rows"])):
            return answer
        assert time.monotonic() < until, f"{url} has nothing to tell: {answer}"
        time.sleep(0.5)


def events(document, url, query):
    content = document["paths"]["/live"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    validator = checker(document, content["schema"])
    with get(f"{url}/api/v1/live?{query}") as response:
        data = next(line for line in response if line.startswith(b"data: "))
    validator.validate(event := json.loads(data.removeprefix(b"data: ")))
    assert event["parts"] and not event["errors"], event
    known = content["schema"]["properties"]["parts"]["properties"].keys()
    assert event["parts"].keys() <= known, event["parts"].keys() - known
    print(f"live?{query}: {', '.join(sorted(event['parts']))} are as described")


def refusals(document, url):
    error = checker(document, {"$ref": "#/components/schemas/Error"})
    stat, live = url + "/api/v1/Stat", url + "/api/v1/live"
    as_json = {"content_type": "application/json"}
    for says, status, ask in [
        ("no method", 404, lambda: get(url + "/api/v1/Nothing", {}, **as_json)),
        ("a method that is not served", 404, lambda: get(url + "/api/v1/CaRotate", {}, **as_json)),
        ("a name that is no text", 404, lambda: get(url + "/api/v1/%ff", {}, **as_json)),
        ("GET", 405, lambda: get(stat)),
        ("POST", 405, lambda: get(live, {}, **as_json)),
        ("no JSON", 415, lambda: get(stat, {}, content_type="text/plain")),
        ("neither a body nor its type", 415, lambda: urllib.request.urlopen(urllib.request.Request(stat, method="POST"), timeout=SECONDS)),
        ("blank", 400, lambda: get(stat, b"\n", **as_json)),
        ("no object", 400, lambda: get(stat, [], **as_json)),
        ("not UTF-8", 400, lambda: get(stat, b'{"selector": {"kind": "\xff"}}', **as_json)),
        ("too long", 413, lambda: get(stat, b" " * 65537, **as_json)),
        ("another page", 403, lambda: get(stat, {}, origin="http://example.org", **as_json)),
        ("another name", 421, lambda: get(stat, {}, host="example.org", **as_json)),
        ("no view", 400, lambda: get(live)),
        ("an unknown view", 400, lambda: get(live + "?view=nothing")),
        ("no number", 400, lambda: get(live + "?view=overview&windowMs=x")),
        ("a parameter too many", 400, lambda: get(live + "?view=overview&more=1")),
    ]:
        try:
            ask().close()
            raise AssertionError(f"{says}: not refused")
        except urllib.error.HTTPError as refused:
            assert refused.code == status, f"{says}: {refused.code}"
            assert refused.headers["content-type"] == "application/json", says
            assert refused.code != 405 or refused.headers["allow"], says
            error.validate(json.load(refused))
    print("refusals are as described")


def reflection(service, socket):
    """As a client does that knows nothing: which services there are, what they take, and one call."""
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        ask = channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

        def one(**question):
            question = reflection_pb2.ServerReflectionRequest(**question)
            response = next(iter(ask(iter([question]), timeout=SECONDS)))
            assert not response.HasField("error_response"), f"{service}: {response.error_response}"
            return response

        listed = {found.name for found in one(list_services="").list_services_response.service}
        # Those that are served here, and no other that the descriptors tell of.
        assert listed == {API, *REFLECTION}, f"{service}: {sorted(listed)}"
        files = {}

        def add(file):
            if file.name not in files:
                files[file.name] = file
                for needed in file.dependency:
                    for found in one(file_by_filename=needed).file_descriptor_response.file_descriptor_proto:
                        add(descriptor_pb2.FileDescriptorProto.FromString(found))

        for symbol in listed:
            for found in one(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto:
                add(descriptor_pb2.FileDescriptorProto.FromString(found))
        pool = descriptor_pool.DescriptorPool()

        defined = set()

        def define(name):
            if name not in defined:
                defined.add(name)
                for needed in files[name].dependency:
                    define(needed)
                pool.Add(files[name])

        for name in files:
            define(name)
        methods = pool.FindServiceByName(API).methods_by_name
        version = methods["Version"]
        call = channel.unary_unary(
            f"/{API}/{version.name}",
            request_serializer=message_factory.GetMessageClass(version.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(version.output_type).FromString,
        )
        answer = call(message_factory.GetMessageClass(version.input_type)(), timeout=SECONDS)
        print(f"{service}: {len(methods)} methods, Version says {json_format.MessageToDict(answer)['version']}")


main(*sys.argv[1:])
