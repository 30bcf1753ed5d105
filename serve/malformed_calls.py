"""Random malformed calls to the service, for tests; reproducible from the random generator.

    call = http_call(random.Random(0))
    status, answer = send(port, call)

Most are almost valid: a valid body or message with one invalid part gets further into a server than random bytes.
"""

import contextlib
import errno
import http.client
import io
import json
import random
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from vizier._src.service import vizier_service_pb2

STUDIES: Final = "/v1/owners/me/studies"
STUDY: Final = {
    "name": "s",
    "algorithm": "QUASI_RANDOM_SEARCH",
    "search_space": [
        {"type": "float", "name": "dropout", "min": 0, "max": 0.9},
        {"type": "categorical", "name": "optimizer", "values": ["adam", "sgd"]},
    ],
    "metrics": [{"name": "objective", "goal": "minimize"}],
}
"""Names that the calls use, so that some of the calls find a study."""
_BODIES: Final[tuple[dict[str, Any], ...]] = (
    STUDY,
    {"client_id": "worker", "count": 1},
    {"metrics": {"objective": 1.0}, "step": 1},
    {"parameters": {"dropout": 0.5, "optimizer": "adam"}, "metrics": {"objective": 1.0}},
    {"infeasible_reason": "out of memory"},
    {"candidates": [{"dropout": 0.5, "optimizer": "adam"}]},
)
_PATHS: Final = {
    STUDIES: "POST",
    f"{STUDIES}/s": "GET",
    f"{STUDIES}/s/suggestions": "POST",
    f"{STUDIES}/s/trials": "POST",
    f"{STUDIES}/s/trials?after=0": "GET",
    f"{STUDIES}/s/trials/1": "GET",
    f"{STUDIES}/s/trials/1/measurements": "POST",
    f"{STUDIES}/s/trials/1/complete": "POST",
    f"{STUDIES}/s/trials/2/complete": "POST",
    f"{STUDIES}/s/optimal_trials": "GET",
    f"{STUDIES}/s/predictions": "POST",
    "/": "GET",
    "/owners/me/studies/s": "GET",
    "/owners/me/studies/s/values.png": "GET",
    "/healthz": "GET",
    "/metrics": "GET",
    "/openapi.json": "GET",
}
"""Paths, each with a method that it supports."""
_VERBS: Final = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "BREW")
_QUERIES: Final = ("after=-1", "limit=0", f"after={10**400}", "limit=NaN", "a=b&" * 500, "%00", "after=1&after=2")
_HEADERS: Final = (
    "content-type: text/plain",
    "content-type: application/json; charset=utf-16",
    "content-encoding: gzip",
    "transfer-encoding: gzip",
    "expect: 100-continue",
    "upgrade: websocket",
    "host: example.org",
    "range: bytes=5-1",
    "if-none-match: " + "x" * 3000,
    "x-nul: a\0b",
    "x-folded: a\r\n b",
    "no colon",
)
_ALGORITHMS: Final = ("OPTFORMER", "RANDOM_SEARCH", "GRID_SEARCH", "CMA_ES", "NSGA2", "BOCS", "EAGLE_STRATEGY", "NONE")
_ODD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 2**53, 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("-inf"), "", "a", "a\0",
    "\u202e", "\ud800", "/", "..", "\x1b[2J", "x" * 5000, [], {}, [[]], {"a": {"a": {}}}, [None] * 50,
)  # fmt: skip
_LARGE: Final = 8 * 2**20
"""Size in bytes of a body that only a few callers may send at once."""


class HttpCall(NamedTuple):
    """A call over HTTP.  Attributes:
    content: bytes that are sent.
    whole: whether a server should answer; if not, the bytes may be invalid or incomplete.
    """

    content: bytes
    whole: bool


class GrpcCall(NamedTuple):
    """A call over gRPC.  Attributes: method: of Vizier's service.  content: bytes of the request."""

    method: str
    content: bytes


def http_call(chance: random.Random) -> HttpCall:
    """A call over HTTP with an odd path, method, header or body, a wrong length, or random bytes."""
    if chance.random() < 0.05:  # creates what other calls can find
        return _sound(*chance.choice([(STUDIES, STUDY), (f"{STUDIES}/s/suggestions", _BODIES[1])]))
    path, verb = chance.choice(list(_PATHS.items()))
    verb = chance.choice(_VERBS) if chance.random() < 0.2 else verb
    if chance.random() < 0.15:
        odd = str(chance.choice(_ODD))[:50].encode("unicode_escape").decode().replace(" ", "%20")
        path = path.replace(chance.choice(["me", "/s", "1"]), odd) or "/"
    if chance.random() < 0.1:
        path += f"?{chance.choice(_QUERIES)}"
    body = _body(chance) if verb in ("POST", "PUT", "PATCH") or chance.random() < 0.05 else b""
    headers = ["connection: close"]
    headers += ["host: localhost"] if chance.random() < 0.98 else []
    headers += ["content-type: application/json"] if chance.random() < 0.9 else []
    headers += [chance.choice(_HEADERS)] if chance.random() < 0.1 else []
    whole, framing = True, chance.random()
    if framing < 0.05:
        headers += ["transfer-encoding: chunked"]
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif framing < 0.08:
        headers += ["transfer-encoding: chunked", f"content-length: {len(body)}"]
    elif framing < 0.11:
        headers += ["transfer-encoding: chunked"]  # although the body is not chunked
        whole = False
    elif framing < 0.14:
        lengths = (len(body) + 1000, max(0, len(body) - 5), -1, 10**30, "five", f"{len(body)}, 7")
        headers += [f"content-length: {chance.choice(lengths)}"]
        whole = False
    elif body:
        headers += [f"content-length: {len(body)}"]
    content = "\r\n".join([f"{verb} {path} HTTP/1.1", *headers, "", ""]).encode("utf-8", "replace") + body
    if chance.random() < 0.25:
        at = len(content) - len(body)
        content, whole = torn(content[:at], chance) + content[at:], False
    return HttpCall(content, whole)


def _sound(path: str, body: Mapping[str, Any]) -> HttpCall:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return HttpCall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content, True)


def _body(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.005:
        return chance.choice([b"[%s0]" % (b"0," * (_LARGE // 2)), b'{"name": "%s"}' % (b"x" * _LARGE), b"[" * _LARGE])
    if kind < 0.03:
        return chance.choice([b"[", b'{"a":', b'{"parameters":{"dropout":']) * 20_000
    if kind < 0.05:
        return b'{"client_id": "worker", "count": %s}' % (b"9" * chance.choice([30, 5000, 50_000]))
    body = chance.choice(_BODIES)
    for _ in range(chance.randrange(1, 3)):
        body = _bent(body, chance)
    content = json.dumps(body).encode()
    return torn(content, chance) if chance.random() < 0.3 else content


def _bent(value: Any, chance: random.Random) -> Any:
    """A similar value with one odd part."""
    if chance.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return chance.choice(_ODD)
    copied = json.loads(json.dumps(value))
    key = chance.choice(list(copied) if isinstance(copied, dict) else list(range(len(copied))))
    match chance.randrange(5):
        case 0 if isinstance(copied, dict):
            del copied[key]
        case 1 if isinstance(copied, dict):
            copied[str(chance.choice(_ODD))[:100]] = copied[key]
        case 2 if "algorithm" in copied:
            copied |= {"algorithm": chance.choice(_ALGORITHMS), "name": f"s{chance.randrange(10)}"}
        case _:
            copied[key] = _bent(copied[key], chance)
    return copied


def torn(content: bytes, chance: random.Random) -> bytes:
    """The same bytes truncated, with bytes inserted, or with bytes replaced."""
    kept = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(kept) + 1)
        match chance.randrange(3):
            case 0:
                del kept[at:]
            case 1:
                kept[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                kept[at : at + 3] = chance.randbytes(3)
    return bytes(kept)


def send(port: int, call: HttpCall, timeout: float = 60.0) -> tuple[int | None, bytes]:
    """Status (None without a reply) and body of the reply of a server on this machine.

    Raises:
      TimeoutError: the server neither replied nor closed the connection.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with _until_closed():  # a server that refuses a call closes before everything is sent
            connection.sendall(call.content)
            if not call.whole:
                connection.shutdown(socket.SHUT_WR)
        with _until_closed():
            while part := connection.recv(65536):
                received += part
    if not received.startswith(b"HTTP/"):
        return None, received
    answer = http.client.HTTPResponse(cast(socket.socket, _Received(received)))
    answer.begin()
    return answer.status, received.partition(b"\r\n\r\n")[2]


@contextlib.contextmanager
def _until_closed() -> Iterator[None]:
    """Ends the block if the other side has closed the connection, which `shutdown` reports by a plain OSError."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
            raise


class _Received:
    """Received bytes as a socket for `HTTPResponse`."""

    def __init__(self, content: bytes):
        self._content = content

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


# gRPC.

_REQUESTS: Final[Mapping[str, type[Message]]] = {
    method.name: message_factory.GetMessageClass(method.input_type)
    for method in vizier_service_pb2.DESCRIPTOR.services_by_name["VizierService"].methods
}
_STUDY: Final = "owners/me/studies/s"
_TARGETS: Final = ("name", "parent", "trial_name")
"""Fields of requests that name a study or a trial."""
_NAMES: Final = ("owners/me", _STUDY, f"{_STUDY}/trials/1", "owners/me/operations/suggestion/s/worker/1")
_TEXTS: Final = ("s", "objective", "dropout", "optimizer", "adam", "1", "", "a\x1bb", "x" * 300, "/", "owners//")
_FLOATS: Final = (0.5, 0.0, -1.0, float("nan"), float("inf"), 1e308, 5e-324)


def grpc_call(chance: random.Random) -> GrpcCall:
    """A call over gRPC: a message with odd values, a damaged message, or random bytes."""
    method = chance.choice(list(_REQUESTS))
    if method.startswith("Delete") and chance.random() < 0.8:  # keeps studies that other calls can find
        method = "SuggestTrials"
    kind = chance.random()
    if kind < 0.1:
        return GrpcCall(method, chance.randbytes(chance.choice([1, 10, 1000, 100_000])))
    if kind < 0.11:
        return GrpcCall(method, b"\x0a\xff\xff\xff\x7f" + bytes(_LARGE))
    if kind < 0.15:
        return GrpcCall("CreateStudy", _deep(chance).SerializeToString())
    content = _filled(_REQUESTS[method](), chance).SerializeToString()
    return GrpcCall(method, torn(content, chance) if kind < 0.4 else content)


def _deep(chance: random.Random) -> Message:
    """A study with deeply nested parameters, or with very many elements of one kind."""
    request = vizier_service_pb2.CreateStudyRequest(parent="owners/me")
    request.study.display_name = f"deep{chance.randrange(5)}"
    spec = request.study.study_spec
    spec.algorithm = chance.choice(_ALGORITHMS)
    spec.metrics.add(metric_id="objective", goal=1)
    match chance.randrange(4):
        case 0:
            within = spec.parameters.add(parameter_id="p")
            for level in range(chance.choice([5, 20, 40])):
                within.categorical_value_spec.values.extend(["a", "b"])
                child = within.conditional_parameter_specs.add()
                child.parent_categorical_values.values.append(chance.choice(["a", "c"]))
                within = child.parameter_spec
                within.parameter_id = f"p{level}"
            within.double_value_spec.max_value = 1.0
        case 1:
            for number in range(20_000):
                spec.parameters.add(parameter_id=str(number)).double_value_spec.max_value = 1.0
        case 2:
            spec.parameters.add(parameter_id="p").categorical_value_spec.values.extend(["a"] * 100_000)
        case _:
            for _ in range(chance.choice([1, 50_000])):
                spec.metadata.add(key="k" * chance.choice([1, 100]), ns=chance.choice(["", ":", "::", "a:b\\"]))
            spec.parameters.add(parameter_id="p").double_value_spec.max_value = 1.0
    return request


def _filled(message: Message, chance: random.Random, depth: int = 0) -> Message:
    """The message with every field set, often to a plausible value."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3:
            continue
        if depth == 0 and field.name in _TARGETS and chance.random() < 0.8:
            of_trial = "Trial" in type(message).__name__ and field.name != "parent"
            setattr(message, field.name, f"{_STUDY}/trials/{chance.choice('112')}" if of_trial else _STUDY)
        elif field.message_type is not None:
            if depth < 5 and not field.message_type.GetOptions().map_entry:
                within = getattr(message, field.name)
                for _ in range(chance.randrange(3)) if field.is_repeated else range(1):
                    _filled(within.add() if field.is_repeated else within, chance, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field, chance))
        else:
            setattr(message, field.name, _scalar(field, chance))
    return message


def _scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(9)
        case FieldDescriptor.CPPTYPE_STRING if field.name == "algorithm":
            return chance.choice(_ALGORITHMS)
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(_NAMES) if chance.random() < 0.6 else chance.choice(_TEXTS)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice(_FLOATS)
        case FieldDescriptor.CPPTYPE_FLOAT:
            return 0.5
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice([*(value.number for value in field.enum_type.values), 99])
    bits = 31 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 63
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    return chance.choice([0, 1, 7, 2**bits - 1, *((-1, -(2**bits)) if signed else ())])
