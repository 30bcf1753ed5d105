"""HTTP connections that send nothing, too slowly, too much, or what two readers would understand differently."""

import contextlib
import json
import socket
import time

import pytest
import trustme

from optformer.serve.access import Access
from optformer.serve.grpc_server import Settings
from optformer.serve.http_server import HttpServer
from optformer.serve.studies import StudyService
from optformer.serve.vizier import _default_factory

pytestmark = pytest.mark.integration

TOKEN = "correct-horse-battery-staple"
PATH = b"/v1/owners/me/studies"
HEAD = b"POST " + PATH + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
STUDY = json.dumps(
    {
        "name": "s",
        "algorithm": "QUASI_RANDOM_SEARCH",
        "search_space": [{"type": "float", "name": "dropout", "min": 0, "max": 0.9}],
        "metrics": [{"name": "objective", "goal": "minimize"}],
    }
).encode()


@contextlib.contextmanager
def serving(model, access=None, **settings):
    studies = StudyService("sqlite:///:memory:", _default_factory())
    server = HttpServer(studies, model, Settings(**{"port": 0, "grace_seconds": 1.0, **settings}), access)
    try:
        yield server
    finally:
        server.stop()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20.0)


def answer(connection):
    """All that comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    return received.decode()


def ask(server, request):
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return answer(connection)


def is_served(server):
    got = ask(server, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    return got.startswith("HTTP/1.1 200 ")


def received(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    assert part, "the connection was closed within an answer"
    return part


def response(connection: socket.socket) -> str:
    """One whole answer of a connection that stays open."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += received(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < length:
        body += received(connection)
    return (head + body).decode()


def test_silent_connections_are_closed(model):
    with serving(model, header_seconds=0.5) as server:
        for send in (b"", b"GET /hea", HEAD):
            began = time.monotonic()
            assert ask(server, send) == ""
            assert 0.3 < time.monotonic() - began < 5.0
        assert is_served(server)


def test_headers_that_come_bit_by_bit_are_not_waited_for(model):
    with serving(model, header_seconds=0.5) as server, connect(server) as connection:
        connection.sendall(HEAD)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 10.0:
                connection.sendall(b"x-more: y\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 5.0


def test_each_request_of_a_connection_has_its_time(model):
    with serving(model, header_seconds=0.8) as server, connect(server) as connection:
        for _ in range(4):
            time.sleep(0.4)  # longer than the time in all
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
            time.sleep(0.1)
            connection.sendall(b"\r\n")
            assert response(connection).startswith("HTTP/1.1 200 ")
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")  # and no more
        assert answer(connection) == ""
        assert time.monotonic() - began < 5.0


def test_a_call_that_takes_long_is_not_a_silent_one(model):
    with serving(model, header_seconds=0.3, request_seconds=10.0) as server, connect(server) as connection:
        connection.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(STUDY))
        time.sleep(0.8)
        connection.sendall(STUDY)
        assert answer(connection).startswith("HTTP/1.1 200 ")


def test_where_all_connections_are_taken_the_one_that_has_waited_longest_makes_room(model):
    """Nobody keeps others out by holding connections."""
    with serving(model, connections=5, header_seconds=30.0) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(5)]
        for connection in held[1:3]:
            connection.sendall(HEAD)  # half headers
        held[3].sendall(HEAD + b"content-length: 100\r\n\r\n{")  # half a body
        time.sleep(0.2)
        for expected in held[:3]:
            stack.enter_context(connect(server))
            assert answer(expected) == ""
        for _ in range(20):  # and those that end give theirs back
            assert is_served(server)


def test_connections_that_do_not_even_begin_with_tls_are_closed(model):
    own = trustme.CA().issue_cert("localhost")
    access = Access(certificate=own.cert_chain_pems[0].bytes(), key=own.private_key_pem.bytes())
    with serving(model, access, header_seconds=0.5) as server:
        began = time.monotonic()
        assert ask(server, b"") == ""
        assert time.monotonic() - began < 5.0


def test_no_body_is_read_before_the_token_on_any_path(model):
    with serving(model, Access(token=TOKEN)) as server:
        for method in (b"POST", b"PUT", b"PATCH"):
            for path in (PATH, b"/healthz", b"/metrics", b"/openapi.json", b"/nothing"):
                head = method + b" " + path + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                # The body is announced and never sent: who waits for it does not answer.
                assert ask(server, head + b"content-length: 1000\r\n\r\n").startswith("HTTP/1.1 401 ")
        for method in (b"GET", b"DELETE", b"OPTIONS", b"HEAD", b"BREW"):
            for path in (PATH, b"/healthz"):
                head = method + b" " + path + b" HTTP/1.1\r\nhost: localhost\r\n"
                for body in (b"content-length: 1000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n3e8\r\n"):
                    got = ask(server, head + body)
                    assert got.startswith("HTTP/1.1 400 ")
                    assert method == b"HEAD" or f"{method.decode()} takes no body" in got


def test_an_empty_body_is_none(model):
    with serving(model) as server:
        head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        assert ask(server, head).startswith("HTTP/1.1 200 ")


def test_a_request_with_two_lengths_is_refused(model):
    """Where a proxy believes one and we the other, the rest would be taken for the next caller's request."""
    with serving(model) as server:
        smuggled = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for first, second in (
            (b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"),
            (b"transfer-encoding: chunked\r\n", b"content-length: 0\r\n"),
        ):
            got = ask(server, HEAD + first + second + b"\r\n" + smuggled)
            assert got.startswith("HTTP/1.1 400 ")
            assert "either a content-length or a transfer-encoding" in got
            assert got.count("HTTP/1.1 ") == 1
        for lengths in (b"content-length: 5\r\ncontent-length: 6\r\n", b"content-length: -1\r\n"):
            assert ask(server, HEAD + lengths + b"\r\n").startswith("HTTP/1.1 400 ")


def test_a_body_that_turns_out_to_be_none_is_answered_once(model, caplog):
    """Whether or not the call runs by then, or has been answered."""
    with serving(model) as server:
        chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
        refused = chunked.replace(b"application/json", b"text/plain")
        for head in (chunked, refused):
            for pause in (0.0, 0.3):
                with connect(server) as connection:
                    connection.sendall(head)
                    time.sleep(pause)
                    connection.sendall(b"5\r\nhello world, which is more")
                    got = answer(connection)
                assert got.count("HTTP/1.1 ") == 1
                assert got.startswith(("HTTP/1.1 400 ", "HTTP/1.1 415 "))
            got = ask(server, head + b"no length\r\n")
            assert got.startswith("HTTP/1.1 400 ")
            assert got.count("HTTP/1.1 ") == 1
        assert is_served(server)
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def test_headers_have_an_end(model):
    with serving(model) as server:
        get = b"GET /healthz%s HTTP/1.1\r\nhost: localhost\r\n%s\r\n"
        for path, more in (
            (b"", b"x-large: " + b"x" * 20_000 + b"\r\n"),
            (b"", b"a: b\r\n" * 9_000),
            (b"?" + b"x" * 20_000, b""),
        ):
            got = ask(server, get % (path, more))
            assert got.startswith("HTTP/1.1 431 ")
            assert "path and headers may have at most 16384 bytes" in got
        got = ask(server, b"GET /" + b"x" * 1_000_000)
        assert not got or got.startswith("HTTP/1.1 400 ")  # who still sends may find the door closed
        assert is_served(server)


def test_large_bodies_have_an_end_together(model):
    """The small ones of others still have room."""
    size = 200_000
    with serving(model, message_bytes=size, request_seconds=5.0) as server, contextlib.ExitStack() as stack:
        refused = 0
        held = [stack.enter_context(connect(server)) for _ in range(9)]
        for connection in held:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % size + b" " * (size - 1))
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                got = response(connection)
                assert got.startswith("HTTP/1.1 503 ")
                assert "large requests" in got
                refused += 1
        # Four times the size in all, beside what is small of each.
        assert refused == 9 - (4 * size) // (size - 1 - 2**16)
        got = ask(server, HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(STUDY) + STUDY)
        assert got.startswith("HTTP/1.1 200 ")
        for connection in held:
            connection.close()
        time.sleep(0.3)
        assert server._guard._room.left == 4 * size
