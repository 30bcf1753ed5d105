"""Calls that no program of good faith makes: each gets a refusal, none a fault of the server, and others are served."""

import contextlib
import http.client
import json
import logging
import random
import socket
import struct

import grpc
import pytest

from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.http_server import HttpServer
from optformer.serve.malformed_calls import STUDIES, STUDY, HttpCall, grpc_call, http_call, send
from optformer.serve.vizier import OptFormerPolicyFactory

pytestmark = pytest.mark.integration

CALLS = 300
"""Of each protocol."""


@pytest.fixture(scope="module")
def both(model):
    server = VizierServer(OptFormerPolicyFactory(model), "sqlite:///:memory:", Settings(port=0, grace_seconds=1.0))
    over_http = HttpServer(server.service, model, Settings(port=0, grace_seconds=1.0, message_bytes=100_000))
    server.stop_with(over_http.stop)
    yield server, over_http
    server.stop()


def test_calls_are_the_same_each_time():
    first, second = random.Random(3), random.Random(3)
    for _ in range(100):
        assert (http_call(first), grpc_call(first)) == (http_call(second), grpc_call(second))


@pytest.mark.parametrize("whole", [True, False])
def test_a_server_that_resets_the_connection_gives_no_answer(monkeypatch, whole):
    """Once all was sent: `shutdown` and `recv` each have an error of their own for it."""
    connect = socket.create_connection

    class Connection(socket.socket):
        def sendall(self, content):
            super().sendall(content)
            theirs, _ = listening.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(
            socket, "create_connection", lambda *_, **named: Connection(fileno=connect(*_, **named).detach())
        )
        assert send(listening.getsockname()[1], HttpCall(b"GET / HTTP/1.1\r\n\r\n", whole)) == (None, b"")


def test_http_calls(both, caplog):
    _, server = both
    chance = random.Random(0)
    statuses = set()
    for _ in range(CALLS):
        call = http_call(chance)
        status, answer = send(server.port, call)
        statuses.add(status)
        assert status is not None or not call.whole, call.content[:300]
        assert status is None or status < 500, (call.content[:300], answer)
        assert b"\x1b" not in answer
    assert statuses >= {None, 200, 400, 404, 405, 422}
    check_that_others_are_served(server, caplog)


@pytest.mark.filterwarnings("ignore:The 'warn' function is deprecated")  # by Vizier, of absl
def test_grpc_calls(both, caplog):
    server, over_http = both
    chance = random.Random(1)
    codes = {}
    with grpc.insecure_channel(server.endpoint) as channel:
        for _ in range(CALLS):
            call = grpc_call(chance)
            try:
                channel.unary_unary(f"/vizier.VizierService/{call.method}")(call.content, timeout=30.0)
            except grpc.RpcError as error:
                codes.setdefault(error.code(), []).append((call.method, error.details()))
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
