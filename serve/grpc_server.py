"""Vizier's gRPC service with OPTFORMER among its algorithms: who may call, what is answered, how it ends.

    server = VizierServer(policy_factory, database_url="sqlite:///studies.db")
    ...
    server.stop()

Calls are answered with the status that fits: NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION, ALREADY_EXISTS,
RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE (the database), INTERNAL (a fault of ours, whose traceback is logged).
`grpc.health.v1.Health` says whether the server takes calls.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from vizier import pythia
from vizier._src.service import pythia_service_pb2_grpc, vizier_service_pb2_grpc

from optformer.serve.access import Access
from optformer.serve.channels import Credentials, PythiaServers, connect
from optformer.serve.database import DatabaseLock
from optformer.serve.metrics import Metrics
from optformer.serve.statuses import status_of
from optformer.serve.studies import Limits, PolicyRunner, StudyService

VIZIER_SERVICE: Final = "vizier.VizierService"
PYTHIA_SERVICE: Final = "vizier.PythiaService"
_HEALTH: Final = "/grpc.health.v1.Health/"
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a server.

    Attributes:
      host: address to listen on.
      port: 0 takes any that is free.
      workers: calls that run at once; further ones wait.
      message_bytes: largest request or reply.
      grace_seconds: for calls that run when the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 28080
    workers: int = 32
    message_bytes: int = 16 * 2**20
    grace_seconds: float = 10.0


class _Server:
    """A gRPC server with access control, statuses, metrics and health.

    Attributes:
      port: that it listens on.
      metrics: what it counts.
    """

    port: int

    def __init__(self, settings: Settings, access: Access, metrics: Metrics):
        access.check(settings.host)
        self.settings, self.metrics = settings, metrics
        limits = [(f"grpc.max_{way}_message_length", settings.message_bytes) for way in ("receive", "send")]
        self._server = grpc.server(
            futures.ThreadPoolExecutor(settings.workers, thread_name_prefix="call"),
            interceptors=[_Guard(access, metrics)],
            # Without it, a second server could share the port and take half of the calls.
            options=[*limits, ("grpc.so_reuseport", 0)],
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._access = access
        self._stopped = threading.Event()
        self._beside: list[Callable[[], None]] = []

    def _listen(self, service: str) -> int:
        """Starts to take calls; the port.  Raises OSError where the address is taken."""
        address, access = self._address(self.settings.port), self._access
        try:
            if access.tls:
                credentials = grpc.ssl_server_credentials(
                    [(access.key, access.certificate)],
                    root_certificates=access.client_authorities,
                    require_client_auth=access.client_authorities is not None,
                )
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is another server there?") from error
        self._server.start()
        for name in ("", service):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    @property
    def endpoint(self) -> str:
        """HOST:PORT."""
        return self._address(self.port)

    def _address(self, port: int) -> str:
        host = self.settings.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def wait(self) -> None:
        """Returns when the server has stopped."""
        self._stopped.wait()

    def stop_with(self, stop: Callable[[], None]) -> None:
        """Has another way to the same studies stopped with this one, before their database is let go."""
        self._beside.append(stop)

    def stop(self) -> None:
        """Takes no more calls, lets those that run end within the time of grace, and closes."""
        self._health.enter_graceful_shutdown()
        ended = self._server.stop(self.settings.grace_seconds)  # does not wait, so that the grace of all is the same
        for stop in self._beside:
            stop()
        ended.wait()
        self._close()
        self._stopped.set()

    def _close(self) -> None:
        """What a kind of server holds besides."""


AnyServer = TypeVar("AnyServer", bound=_Server)


class VizierServer(_Server):
    """Studies in a database, with suggestions from this process."""

    def __init__(
        self,
        policy_factory: pythia.PolicyFactory,
        database_url: str,
        settings: Settings | None = None,
        access: Access | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        pythia_servers: PythiaServers | None = None,
    ):
        """
        Args:
          pythia_servers: that studies may name; by default any on this machine.

        Raises:
          AccessError: it would be open to strangers.
          OSError: the address is taken, or another server has the database.
        """
        super().__init__(settings or Settings(), access or Access(), metrics or Metrics())
        self._lock = DatabaseLock(database_url)
        try:
            self.service = StudyService(database_url, policy_factory, limits, pythia_servers)
            vizier_service_pb2_grpc.add_VizierServiceServicer_to_server(self.service, self._server)
            self.port = self._listen(VIZIER_SERVICE)
        except BaseException:
            self._lock.release()
            raise

    def _close(self) -> None:
        self.service.pythia_servers.close()
        self._lock.release()


class PythiaServer(_Server):
    """Suggestions alone, for studies that name this server as their `pythia_endpoint`."""

    def __init__(
        self,
        policy_factory: pythia.PolicyFactory,
        vizier_endpoint: str,
        settings: Settings | None = None,
        access: Access | None = None,
        metrics: Metrics | None = None,
        credentials: Credentials | None = None,
    ):
        """
        Args:
          vizier_endpoint: HOST:PORT of the service that has the studies; it must be up.
          credentials: for that service.

        Raises:
          AccessError, OSError: as `VizierServer`; OSError also where the service does not answer.
        """
        super().__init__(settings or Settings(), access or Access(), metrics or Metrics())
        self._vizier = connect(vizier_endpoint, credentials or Credentials())
        try:
            stub = vizier_service_pb2_grpc.VizierServiceStub(self._vizier.channel)
            service = PolicyRunner(vizier_service=stub, policy_factory=policy_factory)
            pythia_service_pb2_grpc.add_PythiaServiceServicer_to_server(service, self._server)
            self.port = self._listen(PYTHIA_SERVICE)
        except BaseException:
            self._vizier.close()
            raise

    def _close(self) -> None:
        self._vizier.close()


class _Guard(grpc.ServerInterceptor):
    """Around every call: is it admitted, how long did it take, and what does an exception mean to the caller."""

    def __init__(self, access: Access, metrics: Metrics):
        self._access, self._metrics = access, metrics

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method.startswith(_HEALTH):
            return handler
        method = details.method.rpartition("/")[2]
        admitted = self._access.admits(details.invocation_metadata)

        def answered(request: Message, context: grpc.ServicerContext) -> Message:
            with self._metrics.call(method) as call:
                if not admitted:
                    call.status = "UNAUTHENTICATED"
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "this server wants `authorization: Bearer TOKEN`")
                started = time.monotonic()
                try:
                    # Without the context: given one, Vizier's service sets the status of an error and then does what
                    # it should not have done.
                    return handler.unary_unary(request, None)
                except Exception as error:
                    code, said = status_of(error)
                    if code is grpc.StatusCode.INTERNAL:
                        _LOG.exception("%s failed after %.1f s", method, time.monotonic() - started)
                    call.status = code.name
                    context.abort(code, said)

        return grpc.unary_unary_rpc_method_handler(
            answered,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """The server, stopped at the end of the block."""
    try:
        yield server
    finally:
        server.stop()
