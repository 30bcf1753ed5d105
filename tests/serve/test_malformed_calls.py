"""Calls that no program of good faith makes: each gets a refusal, none a fault of the server, and others are served."""

import contextlib
import http.client
import json
import logging
import random
import socket

import grpc
import pytest
from google.longrunning import operations_pb2
from vizier._src.service import vizier_service_pb2

from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.http_server import HttpServer
from optformer.serve.vizier import OptFormerPolicyFactory

pytestmark = pytest.mark.integration

CALLS = 300
"""Of each protocol."""
STUDIES = "/v1/owners/me/studies"
STUDY = {
    "name": "s",
    "algorithm": "QUASI_RANDOM_SEARCH",
    "search_space": [
        {"type": "float", "name": "dropout", "min": 0, "max": 0.9},
        {"type": "categorical", "name": "optimizer", "values": ["adam", "sgd"]},
    ],
    "metrics": [{"name": "objective", "goal": "minimize"}],
}
BODIES = [
    STUDY,
    {"client_id": "worker", "count": 1},
    {"metrics": {"objective": 1.0}, "step": 1},
    {"parameters": {"dropout": 0.5, "optimizer": "adam"}, "metrics": {"objective": 1.0}},
    {"infeasible_reason": "out of memory"},
    {"candidates": [{"dropout": 0.5, "optimizer": "adam"}]},
]
PATHS = [
    STUDIES,
    f"{STUDIES}/s",
    f"{STUDIES}/s/suggestions",
    f"{STUDIES}/s/trials",
    f"{STUDIES}/s/trials/1",
    f"{STUDIES}/s/trials/1/measurements",
    f"{STUDIES}/s/trials/1/complete",
    f"{STUDIES}/s/optimal_trials",
    "/healthz",
    "/metrics",
    "/openapi.json",
]
ODD = [
    None, True, -1, 0, 2**53, 2**63, 10**400, 1e308, -1e308, 5e-324, "", "a", "a\u0000", "\u202e", "/", "..", "\x1b[2J",
    "x" * 5000, [], {}, [[]], {"a": {"a": {}}}, [None] * 50,
]  # fmt: skip


@pytest.fixture(scope="module")
def both(model):
    server = VizierServer(OptFormerPolicyFactory(model), "sqlite:///:memory:", Settings(port=0, grace_seconds=1.0))
    over_http = HttpServer(server.service, model, Settings(port=0, grace_seconds=1.0, message_bytes=100_000))
    server.stop_with(over_http.stop)
    yield server, over_http
    server.stop()


def bent(value, chance):
    """Something like it, with one odd thing in it."""
    if chance.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return chance.choice(ODD)
    copied = json.loads(json.dumps(value))
    keys = list(copied) if isinstance(copied, dict) else list(range(len(copied)))
    key = chance.choice(keys)
    match chance.randrange(4):
        case 0 if isinstance(copied, dict):
            del copied[key]
        case 1 if isinstance(copied, dict):
            copied[str(chance.choice(ODD))[:100]] = copied[key]
        case _:
            copied[key] = bent(copied[key], chance)
    return copied


def torn(content, chance):
    """Bytes of it, cut, doubled or overwritten."""
    content = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(3):
            case 0:
                del content[at:]
            case 1:
                content[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                content[at : at + 3] = chance.randbytes(3)
    return bytes(content)


def test_http_calls(both, caplog):
    _, server = both
    chance = random.Random(0)
    statuses = set()
    for number in range(CALLS):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30.0)
        with contextlib.closing(connection):
            method, path = chance.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD"]), chance.choice(PATHS)
            if chance.random() < 0.2:
                odd = str(chance.choice(ODD))[:50].encode("unicode_escape").decode().replace(" ", "%20")
                path = path.replace(chance.choice(["me", "/s", "1"]), odd) or "/"
            body = chance.choice(BODIES)
            content = json.dumps(bent(body, chance)).encode()
            if number % 3 == 0:
                content = torn(content, chance)
            if number % 50 == 0:
                content = b"[" * 20_000
            headers = {"content-type": "application/json"} if chance.random() < 0.9 else {}
            connection.request(method, path, content if method in ("POST", "PUT") else None, headers)
            reply = connection.getresponse()
            statuses.add(reply.status)
            answer = reply.read()
            assert reply.status < 500, (method, path, content[:300], answer)
            assert b"\x1b" not in answer
    for _ in range(CALLS):  # what is no HTTP, or nearly
        head = b"POST /v1/owners/me/studies HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n0123456789"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30.0) as connection:
            connection.sendall(torn(head, chance))
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                assert b" 500 " not in connection.recv(1000)[:15]
    assert statuses >= {200, 400, 404, 405, 422}
    check_that_others_are_served(server, caplog)


REQUESTS = {
    "CreateStudy": vizier_service_pb2.CreateStudyRequest,
    "GetStudy": vizier_service_pb2.GetStudyRequest,
    "ListStudies": vizier_service_pb2.ListStudiesRequest,
    "SetStudyState": vizier_service_pb2.SetStudyStateRequest,
    "SuggestTrials": vizier_service_pb2.SuggestTrialsRequest,
    "GetOperation": operations_pb2.GetOperationRequest,
    "CreateTrial": vizier_service_pb2.CreateTrialRequest,
    "GetTrial": vizier_service_pb2.GetTrialRequest,
    "ListTrials": vizier_service_pb2.ListTrialsRequest,
    "AddTrialMeasurement": vizier_service_pb2.AddTrialMeasurementRequest,
    "CompleteTrial": vizier_service_pb2.CompleteTrialRequest,
    "DeleteTrial": vizier_service_pb2.DeleteTrialRequest,
    "CheckTrialEarlyStoppingState": vizier_service_pb2.CheckTrialEarlyStoppingStateRequest,
    "StopTrial": vizier_service_pb2.StopTrialRequest,
    "ListOptimalTrials": vizier_service_pb2.ListOptimalTrialsRequest,
    "UpdateMetadata": vizier_service_pb2.UpdateMetadataRequest,
}
NAMES = ["owners/me", "owners/me/studies/s", "owners/me/studies/s/trials/1", "owners/me/operations/suggestion/s/w/1"]


def filled(message, chance, depth=0):
    """Every field of a message with something, often what belongs there."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3:
            continue
        if field.message_type is not None:
            if depth < 4 and not field.message_type.GetOptions().map_entry:
                within = getattr(message, field.name)
                for _ in range(chance.randrange(3)) if field.is_repeated else range(1):
                    filled(within.add() if field.is_repeated else within, chance, depth + 1)
            continue
        value = {
            field.CPPTYPE_STRING: lambda f: (
                chance.choice([*NAMES, "s", "objective", "", "a\x1bb", "x" * 300])
                if f.type == f.TYPE_STRING
                else chance.randbytes(9)
            ),
            field.CPPTYPE_DOUBLE: lambda f: chance.choice([0.5, float("nan"), float("inf"), 1e308]),
            field.CPPTYPE_FLOAT: lambda f: 0.5,
            field.CPPTYPE_BOOL: lambda f: chance.random() < 0.5,
            field.CPPTYPE_ENUM: lambda f: chance.choice(f.enum_type.values).number,
        }.get(field.cpp_type, lambda f: chance.choice([0, 1, 7, 2**31 - 1]))(field)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def test_grpc_calls(both, caplog):
    server, over_http = both
    chance = random.Random(1)
    codes = {}
    with grpc.insecure_channel(server.endpoint) as channel:
        for number in range(CALLS):
            method = chance.choice(list(REQUESTS))
            content = filled(REQUESTS[method](), chance).SerializeToString()
            if number % 3 == 0:
                content = torn(content, chance)
            try:
                channel.unary_unary(f"/vizier.VizierService/{method}")(content, timeout=30.0)
            except grpc.RpcError as error:
                codes.setdefault(error.code(), []).append((method, error.details()))
    assert not [said for told in codes.values() for _, said in told if "\x1b" in said]
    faults = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert not [(code, codes[code]) for code in codes.keys() & faults]
    assert codes.keys() >= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    check_that_others_are_served(over_http, caplog)


def check_that_others_are_served(server, caplog):
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
        assert not record.exc_info, record.getMessage()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30.0)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json"}
        for path, body in ((STUDIES, STUDY | {"name": "sound"}), (f"{STUDIES}/sound/suggestions", {"client_id": "w"})):
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            assert (reply.status, reply.read()[:0]) == (200, b"")
