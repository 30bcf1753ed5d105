"""The HTTP server itself: who may call, what it does not take, how it ends, and what it counts."""

import concurrent.futures
import contextlib
import http.client
import json
import logging
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from sqlalchemy import exc as database_errors
from vizier.service import clients

from optformer.cli import main
from optformer.serve.access import Access, AccessError
from optformer.serve.client import Service
from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.http_server import HttpServer
from optformer.serve.metrics import Metrics
from optformer.serve.studies import StudyService
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

pytestmark = pytest.mark.integration

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SECONDS = 60.0
"""After which something that was waited for counts as lost."""
STUDIES = "/v1/owners/me/studies"
STUDY = {
    "name": "s",
    "algorithm": "QUASI_RANDOM_SEARCH",
    "search_space": [{"type": "float", "name": "dropout", "min": 0, "max": 0.9}],
    "metrics": [{"name": "objective", "goal": "minimize"}],
}


@contextlib.contextmanager
def serving(model, *, factory=None, access=None, url="sqlite:///:memory:", **settings):
    """An HTTP server without the other protocol."""
    studies = StudyService(url, factory or OptFormerPolicyFactory(model, seed=1))
    settings = Settings(**{"port": 0, "grace_seconds": 2.0, **settings})
    server = HttpServer(studies, model, settings, access)
    server.studies = studies
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(model):
    with serving(model, message_bytes=10_000, request_seconds=0.5) as server:
        yield server


def exchange(server, method, path, body=None, headers=None, tls=None):
    """Status, headers and text of a reply."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    else:
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=SECONDS, context=tls)
    with contextlib.closing(connection):
        content = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, content, {"content-type": "application/json"} | (headers or {}))
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read().decode()


def call(server, method, path, body=None, headers=None, tls=None):
    status, _, text = exchange(server, method, path, body, headers, tls)
    return status, json.loads(text or "null")


def error_of(server, *arguments, **named):
    status, answer = call(server, *arguments, **named)
    assert answer.keys() == {"error"}
    return status, answer["error"]["code"], answer["error"]["message"]


def raw(server, *parts, pause=0.0):
    """All that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer.decode()


def wait_until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


# Who may call.


def test_callers_send_the_token(model):
    with serving(model, access=Access(token=TOKEN)) as server:
        assert call(server, "POST", STUDIES, STUDY, BEARER)[0] == 200
        wrong = [None, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer ü"}]
        for headers in wrong:
            for method, path in (("GET", STUDIES), ("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/nothing")):
                status, sent, text = exchange(server, method, path, headers=headers)
                assert status == 401
                assert sent["www-authenticate"] == "Bearer"
                assert json.loads(text)["error"]["code"] == "UNAUTHENTICATED"
                assert TOKEN not in text
        # Strangers are refused before their body is read.
        assert error_of(server, "POST", STUDIES, b"{")[0] == 401
        # A load balancer needs no token to see whether the server is up.
        assert call(server, "GET", "/healthz") == (200, {"status": "serving"})
        # Whoever has the token may call by any name, as behind a proxy.
        assert call(server, "GET", STUDIES, headers=BEARER | {"host": "tuning.example.org"})[0] == 200
        description = call(server, "GET", "/openapi.json", headers=BEARER)[1]
        assert description["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:28081", "10.0.0.1", "localhost.evil.example", "", "[x"])
def test_a_strangers_name_for_this_machine_is_refused(server, host):
    status, code, message = error_of(server, "GET", STUDIES, headers={"host": host})
    assert (status, code) == (421, "PERMISSION_DENIED")
    assert "by the name localhost" in message


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:28081", "127.1.2.3", "[::1]:28081"])
def test_names_of_this_machine(server, host):
    assert call(server, "GET", STUDIES, headers={"host": host})[0] == 200


def test_insecure_means_any_name(model):
    with serving(model, access=Access(insecure=True)) as server:
        assert call(server, "GET", STUDIES, headers={"host": "tuning.example.org"})[0] == 200


def test_no_server_is_open_by_mistake(model):
    with (
        pytest.raises(AccessError, match=r"0\.0\.0\.0 can be reached from other machines"),
        serving(model, host="0.0.0.0"),
    ):
        pass


def test_pages_of_others_are_not_told(server):
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    status, headers, _ = exchange(server, "OPTIONS", STUDIES, headers=preflight)
    assert status == 405
    assert not [name for name in headers if name.lower().startswith("access-control")]
    assert headers["allow"]
    assert headers.get("server") is None


def pair(certificate):
    return {"certificate": certificate.cert_chain_pems[0].bytes(), "key": certificate.private_key_pem.bytes()}


def test_certificates(model, tmp_path):
    ours, theirs = trustme.CA(), trustme.CA()
    own, friend, stranger = ours.issue_cert("localhost"), ours.issue_cert("friend"), theirs.issue_cert("stranger")

    def caller(certificate=None, authority=ours):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    with serving(model, access=Access(**pair(own))) as server:
        assert server.url.startswith("https://")
        assert call(server, "POST", STUDIES, STUDY, tls=caller())[0] == 200
        with pytest.raises(ssl.SSLError):
            call(server, "GET", STUDIES, tls=caller(authority=theirs))
    access = Access(**pair(own), client_authorities=ours.cert_pem.bytes())
    with serving(model, access=access) as server:
        assert call(server, "POST", STUDIES, STUDY, tls=caller(friend))[0] == 200
        for wrong in (caller(), caller(stranger)):
            with pytest.raises(OSError):  # refused, or closed in the middle
                call(server, "GET", STUDIES, tls=wrong)
        assert call(server, "GET", STUDIES, tls=caller(friend))[0] == 200


def test_certificates_that_are_none(model):
    ours = trustme.CA()
    own, other = pair(ours.issue_cert("localhost")), pair(ours.issue_cert("localhost"))
    key = serialization.load_pem_private_key(own["key"], None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for access in (
        Access(certificate=own["certificate"], key=other["key"]),
        Access(certificate=own["certificate"], key=encrypted),  # and nobody is asked for the password
        Access(certificate=b"-----BEGIN nothing", key=b"-----BEGIN nothing"),
        Access(**own, client_authorities=b"-----BEGIN nothing"),
    ):
        with pytest.raises(AccessError, match="cannot be used"), serving(model, access=access):
            pass


# What is not taken.


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_only_json_is_taken(server, kind):
    headers = {"content-type": kind} if kind is not None else {}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) as connection:
        connection.request("POST", STUDIES, json.dumps(STUDY), headers)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
    assert reply.status == 415
    assert answer["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"


def test_charsets_may_be_named(server):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert call(server, "POST", STUDIES, STUDY, headers)[0] == 200


@pytest.mark.parametrize("size", [10_001, 39_999, 100_000_000])
def test_bodies_have_an_end(server, size):
    status, code, message = 0, "", ""
    try:
        status, code, message = error_of(server, "POST", STUDIES, b" " * size)
    except (ConnectionError, BrokenPipeError):
        assert size > 40_000  # whoever sends that much may find the door closed
    if status:
        assert (status, code, message) == (413, "RESOURCE_EXHAUSTED", "a body may have at most 10000 bytes")
    assert call(server, "GET", STUDIES)[0] == 200


def test_the_largest_body_is_taken(server):
    body = json.dumps(STUDY).encode()
    assert call(server, "POST", STUDIES, body + b" " * (10_000 - len(body)))[0] == 200


HEAD = b"POST /v1/owners/me/studies HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize("chunks", [11, 40])
def test_chunked_bodies_have_an_end_too(server, chunks):
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    answer = raw(server, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * chunks, b"0\r\n\r\n")
    assert answer.startswith("HTTP/1.1 413 ")
    assert "a body may have at most 10000 bytes" in answer


def test_chunked_bodies_are_taken(server):
    body = json.dumps(STUDY).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) as connection:
        headers = {"content-type": "application/json"}
        connection.request("POST", STUDIES, iter([body[:50], body[50:]]), headers, encode_chunked=True)
        assert connection.getresponse().status == 200


def test_bodies_that_are_announced_too_large_are_not_waited_for(server):
    answer = raw(server, HEAD + b"content-length: 99999999999\r\n\r\n")
    assert answer.startswith("HTTP/1.1 413 ")


def test_slow_bodies_are_not_waited_for(server):
    answer = raw(server, HEAD + b"content-length: 100\r\n\r\n{")
    assert answer.startswith("HTTP/1.1 408 ")
    assert "the body did not arrive within 0.5 seconds" in answer


def test_what_is_no_http_is_refused(server):
    assert raw(server, b"\x16\x03\x01\x02\x00\r\n\r\n").startswith("HTTP/1.1 400 ")
    assert raw(server, b"GET / HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 400 ")  # nor is a request without a host
    upgrade = b"GET /v1 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    assert raw(server, upgrade).startswith("HTTP/1.1 404 ")


# Faults.


def test_a_database_that_is_locked(model, tmp_path):
    with serving(model, url=f"sqlite:///{tmp_path}/s.db?timeout=0.1") as server:
        assert call(server, "POST", STUDIES, STUDY)[0] == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            status, headers, text = exchange(server, "POST", STUDIES, STUDY | {"name": "t"})
            other.execute("ROLLBACK")
        assert status == 503
        assert headers["retry-after"] == "1"
        assert json.loads(text)["error"] == {
            "code": "UNAVAILABLE",
            "message": "the database does not answer; try again",
        }
        assert call(server, "POST", STUDIES, STUDY | {"name": "t"})[0] == 200


@pytest.mark.parametrize(
    "error, expected",
    [
        (database_errors.OperationalError("SELECT", {}, Exception("gone")), (503, "UNAVAILABLE")),
        (ZeroDivisionError("secret"), (500, "INTERNAL")),
    ],
)
def test_a_fault_of_ours_is_told_without_its_details(model, monkeypatch, caplog, error, expected):
    with serving(model) as server:
        assert call(server, "POST", STUDIES, STUDY)[0] == 200

        def broken(*arguments):
            raise error

        monkeypatch.setattr(server.studies, "GetStudy", broken)
        status, code, message = error_of(server, "GET", f"{STUDIES}/s")
        assert (status, code) == expected
        assert "secret" not in message
        assert "gone" not in message
        logged = [record for record in caplog.records if record.name.startswith("optformer")]
        assert bool(logged) == (status == 500)
        for record in logged:
            assert record.exc_info


@pytest.mark.parametrize(
    "error, expected",
    [(RuntimeError("no weights"), (500, "INTERNAL")), (ValueError("no weights"), (409, "FAILED_PRECONDITION"))],
)
def test_a_policy_that_fails_says_why(model, caplog, error, expected):
    working, broken = OptFormerPolicyFactory(model), [True]

    def factory(*arguments):
        if broken:
            raise error
        return working(*arguments)

    with serving(model, factory=factory) as server:
        assert call(server, "POST", STUDIES, STUDY | {"algorithm": "OPTFORMER"})[0] == 200
        status, code, message = error_of(server, "POST", f"{STUDIES}/s/suggestions", {"client_id": "worker"})
        assert (status, code) == expected
        assert "no weights" in message
        assert bool([record for record in caplog.records if record.exc_info]) == (status == 500)
        broken.clear()
        assert call(server, "POST", f"{STUDIES}/s/suggestions", {"client_id": "worker"})[0] == 200


def test_logs_carry_no_values(model, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(model) as server:
        call(server, "POST", STUDIES, STUDY)
        body = {"parameters": {"dropout": 0.123456}, "metrics": {"objective": 98.7654}}
        assert call(server, "POST", f"{STUDIES}/s/trials", body)[0] == 200
        assert call(server, "POST", f"{STUDIES}/s/trials", body | {"parameters": {"dropout": 77.123456}})[0] == 422
        assert call(server, "POST", f"{STUDIES}/s/predictions", {"candidates": [{"dropout": 0.123456}]})[0] == 200
        # An algorithm that fails is no reason to log its study.
        space = [*STUDY["search_space"], {"type": "float", "name": "rate", "min": 0, "max": 77.123456}]
        unmet = [{"coefficients": {"dropout": 1}, "lower": 5}]
        study = STUDY | {"name": "t", "algorithm": ALGORITHM, "search_space": space, "constraints": unmet}
        assert call(server, "POST", STUDIES, study)[0] == 200
        for path, body in (("suggestions", {"client_id": "worker"}), ("trials", {"parameters": {"dropout": 0.123456}})):
            status, code, message = error_of(server, "POST", f"{STUDIES}/t/{path}", body)
            assert (status, code) == (409, "FAILED_PRECONDITION")
            assert "study 'owners/me/studies/t': no" in message
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "123456" not in logged
    assert "98.7654" not in logged


# Calls that take long.


class Slow:
    """A policy factory that lets its callers wait."""

    def __init__(self, model):
        self.factory = OptFormerPolicyFactory(model)
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def __call__(self, *arguments):
        self.begun.release()
        assert self.go_on.wait(SECONDS)
        return self.factory(*arguments)


@pytest.fixture
def slow(model):
    slow = Slow(model)
    yield slow
    slow.go_on.set()  # or a test that fails would not end


def suggest(server, study="s", client="worker"):
    return call(server, "POST", f"{STUDIES}/{study}/suggestions", {"client_id": client})


def test_a_long_suggestion_holds_up_nobody_else(model, slow):
    with serving(model, factory=slow, workers=2) as server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        for name in "abc":
            call(server, "POST", STUDIES, STUDY | {"name": name})
        waiting = [pool.submit(suggest, server, name) for name in "abc"]
        for _ in range(2):
            assert slow.begun.acquire(timeout=SECONDS)
        # Both workers for suggestions are taken, the third waits; trials are reported all the same.
        added = {"parameters": {"dropout": 0.5}, "metrics": {"objective": 1}}
        assert call(server, "POST", f"{STUDIES}/a/trials", added)[0] == 200
        assert call(server, "GET", "/healthz")[0] == 200
        assert not slow.begun.acquire(timeout=0.1)  # no more workers than two
        slow.go_on.set()
        assert [future.result(SECONDS)[0] for future in waiting] == [200] * 3


def test_more_calls_than_can_wait_are_refused(model, slow):
    with serving(model, factory=slow, workers=1) as server, concurrent.futures.ThreadPoolExecutor(9) as pool:
        call(server, "POST", STUDIES, STUDY)
        futures = [pool.submit(suggest, server, client=f"worker {number}") for number in range(8)]
        wait_until(lambda: server._guard._calls == 8, "eight calls have come")
        status, code, message = error_of(server, "GET", STUDIES)
        assert (status, code, message) == (503, "UNAVAILABLE", "8 calls are already running or waiting; try again")
        assert call(server, "GET", "/healthz")[0] == 200
        slow.go_on.set()
        assert [future.result(SECONDS)[0] for future in futures] == [200] * 8


def test_a_client_that_goes_away_leaves_its_trial_to_be_asked_for_again(model, slow):
    with serving(model, factory=slow) as server:
        call(server, "POST", STUDIES, STUDY)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        body = json.dumps({"client_id": "worker"})
        connection.request("POST", f"{STUDIES}/s/suggestions", body, {"content-type": "application/json"})
        assert slow.begun.acquire(timeout=SECONDS)
        connection.close()
        slow.go_on.set()
        status, answer = suggest(server)
        assert status == 200
        assert [trial["id"] for trial in answer["trials"]] == [1]
        # And one that goes in the middle of its request.
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as other:
            other.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        wait_until(lambda: server._guard._calls == 0, "the server has seen it")
        assert call(server, "GET", STUDIES)[0] == 200


# How it ends.


def test_stopping_lets_calls_end_and_takes_no_more(model, slow):
    with serving(model, factory=slow, grace_seconds=20.0) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        call(server, "POST", STUDIES, STUDY)
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        with contextlib.closing(idle):
            idle.request("GET", "/healthz")
            assert idle.getresponse().read()
            running = pool.submit(suggest, server)
            assert slow.begun.acquire(timeout=SECONDS)
            stopped = pool.submit(server.stop)
            wait_until(lambda: server._guard.stopping, "the server is stopping")
            # A connection that is open already gets an answer or is closed, a new one is not made.
            for connection in (idle, http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)):
                with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                    connection.request("GET", "/healthz")
                    reply = connection.getresponse()
                    assert (reply.status, json.loads(reply.read())["error"]["code"]) == (503, "UNAVAILABLE")
        assert not stopped.done()
        slow.go_on.set()
        status, answer = running.result(SECONDS)
        assert (status, len(answer["trials"])) == (200, 1)
        stopped.result(SECONDS)
    with pytest.raises(OSError):
        call(server, "GET", "/healthz")


def test_calls_that_outlast_the_time_of_grace_are_told(model, slow):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with serving(model, factory=slow, grace_seconds=1.0) as server:
            call(server, "POST", STUDIES, STUDY)
            running = pool.submit(suggest, server)
            assert slow.begun.acquire(timeout=SECONDS)
        status, answer = running.result(SECONDS)
        assert (status, answer["error"]["message"]) == (503, "the server has stopped")
        slow.go_on.set()


def test_the_address_is_taken_once_and_given_back(model):
    with serving(model) as server:
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}"),
            serving(model, port=server.port),
        ):
            pass
        port = server.port
    with serving(model, port=port) as server:
        assert call(server, "GET", "/healthz")[0] == 200


def test_both_protocols_stop_together(model, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    settings = Settings(port=0, grace_seconds=1.0)
    for _ in range(2):  # what has stopped holds nothing
        vizier = VizierServer(OptFormerPolicyFactory(model), url, settings)
        server = HttpServer(vizier.service, model, settings, metrics=vizier.metrics)
        vizier.stop_with(server.stop)
        assert call(server, "POST", STUDIES, STUDY)[0] == 200
        vizier.stop()
        with pytest.raises(OSError):
            call(server, "GET", "/healthz")


def test_ipv6(model):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    for host in ("::1", "[::1]"):
        with serving(model, host=host) as server:
            assert server.url == f"http://[::1]:{server.port}"
            with contextlib.closing(http.client.HTTPConnection("::1", server.port, timeout=SECONDS)) as connection:
                connection.request("GET", STUDIES)
                assert connection.getresponse().status == 200


# What it counts.


def test_calls_are_counted_and_timed(model):
    metrics = Metrics()
    studies = StudyService("sqlite:///:memory:", OptFormerPolicyFactory(model))
    server = HttpServer(studies, model, Settings(port=0), metrics=metrics)
    try:
        for _ in range(2):
            call(server, "POST", STUDIES, STUDY)
        error_of(server, "GET", f"{STUDIES}/none")
        error_of(server, "GET", f"{STUDIES}/none?x={'y' * 100}")
        error_of(server, "GET", "/some/where")
        error_of(server, "BREW", STUDIES)
        error_of(server, "GET", STUDIES, headers={"host": "evil.example"})
        status, headers, text = exchange(server, "GET", "/metrics")
    finally:
        server.stop()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    prefix = "optformer_calls_total"
    assert f'{prefix}{{method="POST /v1/owners/{{owner}}/studies",status="200"}} 2.0' in text
    assert f'{prefix}{{method="GET /v1/owners/{{owner}}/studies/{{study}}",status="404"}} 2.0' in text
    assert f'{prefix}{{method="unknown path",status="404"}} 1.0' in text
    assert f'{prefix}{{method="unknown path",status="405"}} 1.0' in text
    assert f'{prefix}{{method="unknown path",status="421"}} 1.0' in text
    assert 'optformer_call_seconds_count{method="POST /v1/owners/{owner}/studies"} 2.0' in text
    assert "optformer_calls_running 1.0" in text  # this one


# The command.


def test_the_command_serves_both_until_it_is_told_to_stop(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    command = [sys.executable, "-m", "optformer.cli", "serve", "--port", "0", "--checkpoint", checkpoint]
    command += ["--http", "--http-port", "0", "--token-file", str(token), "--max-megabytes", "1"]
    process = subprocess.Popen(
        [*command, "--database-url", f"sqlite:///{tmp_path}/s.db"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("OPTFORMER (random-tiny) at 127.0.0.1:"), process.stderr.read()
        endpoint = line.split()[-1]
        line = process.stdout.readline()
        assert line.startswith("JSON over HTTP at http://127.0.0.1:")

        class Started:
            port = int(line.rpartition(":")[2])

        assert error_of(Started, "GET", STUDIES)[0] == 401
        assert error_of(Started, "POST", STUDIES, b" " * (2**20 + 1), BEARER)[0] == 413
        assert call(Started, "POST", STUDIES, STUDY | {"algorithm": ALGORITHM}, BEARER)[0] == 200
        asked = {"client_id": "worker", "count": 2}
        status, answer = call(Started, "POST", f"{STUDIES}/s/suggestions", asked, BEARER)
        assert (status, len(answer["trials"])) == (200, 2)
        candidates = {"candidates": [{"dropout": 0.5}]}
        status, answer = call(Started, "POST", f"{STUDIES}/s/predictions", candidates, BEARER)
        assert (status, answer["checkpoint"]) == (200, "random-tiny")
        with Service(endpoint, token=TOKEN) as service:
            trials = service.load("owners/me/studies/s").suggest(count=2, client_id="worker")
            assert sorted(trial.id for trial in trials) == [1, 2]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert out == "stopped\n"
    assert "waiting for running calls" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--http-port", "28099"], "--http-port needs --http"),
        (["--http", "--pythia-for", "localhost:1"], "give --http to that server"),
        (["--http", "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
    ],
)
def test_options_that_do_not_fit(arguments, said, capsys):
    assert main(["serve", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_leaves_nothing_behind(checkpoint, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/s.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [
            "--checkpoint",
            checkpoint,
            "--database-url",
            url,
            "--port",
            "0",
            "--http",
            "--http-port",
            str(port),
        ]
        assert main(["serve", *arguments]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    # The database and the other port are free again.
    VizierServer(lambda *_: None, url, Settings(port=0, grace_seconds=1.0)).stop()
