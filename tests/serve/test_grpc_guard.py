"""gRPC calls of strangers, of callers that send nothing, and of callers that send nonsense."""

import contextlib
import socket
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vizier._src.service import vizier_service_pb2

from optformer.serve.access import Access
from optformer.serve.client import Service
from optformer.serve.grpc_server import Settings, VizierServer, running
from optformer.serve.vizier import _default_factory

pytestmark = pytest.mark.integration

TOKEN = "correct-horse-battery-staple"
GET_STUDY = "/vizier.VizierService/GetStudy"
LIST = vizier_service_pb2.ListStudiesRequest(parent="owners/me").SerializeToString()


def serving(access=None, **settings):
    settings = Settings(**{"port": 0, "grace_seconds": 1.0, **settings})
    return running(VizierServer(_default_factory(), "sqlite:///:memory:", settings, access))


@contextlib.contextmanager
def calling(server, *options):
    with grpc.insecure_channel(server.endpoint, options) as channel:
        yield channel


def status_of(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


class Unsent:
    """The requests of a call that never sends one."""

    def __init__(self):
        self.ended = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        self.ended.wait(60)
        raise StopIteration


@contextlib.contextmanager
def unfinished(channel, count, method=GET_STUDY, metadata=None):
    """Calls whose headers have been sent and whose requests have not."""
    requests = Unsent()
    futures = [channel.stream_unary(method).future(requests, metadata=metadata) for _ in range(count)]
    try:
        yield futures
    finally:
        requests.ended.set()
        for future in futures:
            future.cancel()


def test_a_stranger_s_request_is_neither_parsed_nor_waited_for():
    with serving(Access(token=TOKEN)) as server, calling(server) as channel:
        for request in (b"\xff" * 100, b""):  # no message at all
            code, said = status_of(lambda request=request: channel.unary_unary(GET_STUDY)(request, timeout=10))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert said == "this server needs `authorization: Bearer TOKEN`"
        with unfinished(channel, 3) as futures:
            for future in futures:
                assert future.exception(timeout=10).code() is grpc.StatusCode.UNAUTHENTICATED
        labels = {"method": "GetStudy", "status": "UNAUTHENTICATED"}
        assert server.metrics.registry.get_sample_value("optformer_calls_total", labels) == 5.0


def test_a_stranger_s_large_request_is_refused_before_it_has_come():
    with serving(Access(token=TOKEN)) as server, calling(server) as channel:
        sent = []

        def requests():
            for number in range(10_000):  # far more than fits into the windows of the protocol
                sent.append(number)
                yield bytes(2**20)

        code, _ = status_of(lambda: channel.stream_unary(GET_STUDY)(requests(), timeout=30))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert len(sent) < 100


def test_load_balancers_without_a_token_are_told_of_the_server_as_a_whole():
    with serving(Access(token=TOKEN)) as server, calling(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        serving_now = health_pb2.HealthCheckResponse.SERVING
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == serving_now
        # The request is not read, whatever it is.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        assert check(b"\xff" * 100, timeout=10).status == serving_now
        code, _ = status_of(lambda: next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)))
        assert code is grpc.StatusCode.UNIMPLEMENTED


def test_callers_with_a_token_ask_for_the_health_of_a_service():
    bearer = (("authorization", f"Bearer {TOKEN}"),)
    for access, metadata in ((Access(token=TOKEN), bearer), (None, None)):
        with serving(access) as server, calling(server) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            def check(service, stub=stub, metadata=metadata):
                return stub.Check(health_pb2.HealthCheckRequest(service=service), metadata=metadata, timeout=10)

            assert check("vizier.VizierService").status == health_pb2.HealthCheckResponse.SERVING
            assert status_of(lambda: check("other"))[0] is grpc.StatusCode.NOT_FOUND
            watched = stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=10)
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            watched.cancel()


def test_nonsense_is_told_so_without_a_traceback(caplog):
    with serving() as server, calling(server) as channel:
        for request in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x08"):
            code, said = status_of(lambda request=request: channel.unary_unary(GET_STUDY)(request, timeout=10))
            assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this method")
        code, said = status_of(lambda: channel.stream_unary(GET_STUDY)(iter(()), timeout=10))
        assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
        code, _ = status_of(lambda: channel.unary_unary("/vizier.VizierService/Nothing")(b"", timeout=10))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        code, _ = status_of(lambda: channel.unary_unary(GET_STUDY)(b"", timeout=10))
        assert code is grpc.StatusCode.INVALID_ARGUMENT or code is grpc.StatusCode.NOT_FOUND
        assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


@pytest.mark.parametrize("silent", [2, 12])
def test_requests_that_do_not_come_are_not_waited_for(silent):
    """Few may take their time; where they hold all workers, they may not."""
    with (
        serving(workers=4, request_seconds=3.0) as server,
        calling(server) as channel,
        unfinished(channel, silent) as futures,
    ):
        time.sleep(0.3)
        began = time.monotonic()
        list_studies = channel.unary_unary("/vizier.VizierService/ListStudies")
        code, _ = status_of(lambda: list_studies(LIST, timeout=30))
        assert code is grpc.StatusCode.NOT_FOUND  # it was answered
        assert time.monotonic() - began < (2.0 if silent < 4 else 10.0)
        for future in futures:
            assert future.exception(timeout=30).code() is not grpc.StatusCode.OK


def test_more_calls_than_can_wait_are_refused():
    with serving(workers=1, request_seconds=30.0) as server, calling(server) as channel, unfinished(channel, 8):
        time.sleep(0.3)
        with calling(server, ("grpc.use_local_subchannel_pool", 1)) as other:
            list_studies = other.unary_unary("/vizier.VizierService/ListStudies")
            assert status_of(lambda: list_studies(LIST, timeout=10))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def closed_after(port, send=b""):
    """Seconds until the server has closed a connection on which this is all that is sent."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(send)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass
    return time.monotonic() - began


@pytest.mark.parametrize("send", [b"", b"PRI * HT", b"GET / HTTP/1.1\r\n"], ids=["nothing", "half", "another protocol"])
def test_silent_connections_are_closed(send):
    with serving(header_seconds=0.5) as server:
        assert closed_after(server.port, send) < 10.0


def test_connections_without_a_call_are_closed():
    with serving(idle_seconds=0.5) as server:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        assert closed_after(server.port, preface) < 15.0


def test_there_is_an_end_to_connections():
    with serving(connections=5) as server, contextlib.ExitStack() as stack, Service(server.endpoint) as service:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(4)]
        time.sleep(0.3)
        assert closed_after(server.port) < 5.0  # the sixth
        for connection in held:
            connection.close()
        assert service.stub.CreateStudy  # who is in stays in
        code, _ = status_of(lambda: service.load("owners/me/studies/none").suggest(count=1))
        assert code is grpc.StatusCode.NOT_FOUND


def test_headers_have_an_end():
    with serving() as server, calling(server) as channel:
        list_studies = channel.unary_unary("/vizier.VizierService/ListStudies")
        code, _ = status_of(lambda: list_studies(LIST, metadata=(("x-large", "x" * 100_000),), timeout=10))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status_of(lambda: list_studies(LIST, timeout=10))[0] is grpc.StatusCode.NOT_FOUND
