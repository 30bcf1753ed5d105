"""Vizier's gRPC service with the algorithm OPTFORMER: access control, statuses of errors, and shutdown.

    server = VizierServer(policy_factory, database_url="sqlite:///studies.db")
    ...
    server.stop()

Calls are answered with the status that fits: NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION, ALREADY_EXISTS,
RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE (the database), INTERNAL (an error of the server, whose traceback is
logged).  `grpc.health.v1.Health` says whether the server accepts calls.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Final, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from vizier import pythia
from vizier._src.service import pythia_service_pb2_grpc, vizier_service_pb2_grpc

from optformer.serve.access import Access
from optformer.serve.channels import Credentials, PythiaServers, connect
from optformer.serve.database import DatabaseLock
from optformer.serve.datastore import check_database
from optformer.serve.grpc_guard import Guard
from optformer.serve.limits import Limits
from optformer.serve.metrics import Metrics
from optformer.serve.policies import PolicyRunner
from optformer.serve.studies import StudyService

VIZIER_SERVICE: Final = "vizier.VizierService"
PYTHIA_SERVICE: Final = "vizier.PythiaService"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
      host: address to listen on.
      port: port to listen on; 0: any free port.
      workers: number of calls that run at once; further ones wait.
      message_bytes: largest size of a request or reply.
      grace_seconds: time that running calls get to finish when the server stops.
      connections: largest number of open connections, for each protocol.
      header_seconds: time within which a new connection must send its first headers.
      request_seconds: time within which the rest of a request must arrive.
      idle_seconds: time after which a connection without a call is closed.
    """

    host: str = "127.0.0.1"
    port: int = 28080
    workers: int = 32
    message_bytes: int = 16 * 2**20
    grace_seconds: float = 10.0
    connections: int = 400
    header_seconds: float = 10.0
    request_seconds: float = 30.0
    idle_seconds: float = 300.0


CALLS_PER_WORKER: Final = 8
"""Largest number of running and waiting calls, as a multiple of the number of workers; further ones are refused."""
_HEADER_BYTES: Final = 16 * 2**10


def _options(settings: Settings) -> list[tuple[str, int]]:
    """The limits as options of gRPC."""
    milliseconds = {
        "grpc.server_handshake_timeout_ms": settings.header_seconds,
        "grpc.max_connection_idle_ms": settings.idle_seconds,
        # Detects clients that have disappeared without closing the connection.
        "grpc.keepalive_time_ms": settings.idle_seconds,
        "grpc.keepalive_timeout_ms": settings.header_seconds,
    }
    return [
        # With the default, a second server could share the port and get half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.message_bytes),
        ("grpc.max_send_message_length", settings.message_bytes),
        ("grpc.max_metadata_size", _HEADER_BYTES),
        ("grpc.absolute_max_metadata_size", _HEADER_BYTES),
        ("grpc.max_allowed_incoming_connections", settings.connections),
        ("grpc.max_concurrent_streams", CALLS_PER_WORKER * settings.workers),
        *((name, max(1, round(1000 * seconds))) for name, seconds in milliseconds.items()),
    ]


class _Server:
    """A gRPC server with access control, statuses, metrics and health.

    Attributes:
      port: the port that it listens on.
      metrics: its counters.
    """

    port: int

    def __init__(self, settings: Settings, access: Access, metrics: Metrics):
        access.check(settings.host)
        self.settings, self.metrics = settings, metrics
        self._guard = Guard(access, metrics, workers=settings.workers, request_seconds=settings.request_seconds)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(settings.workers, thread_name_prefix="call"),
            interceptors=[self._guard],
            options=_options(settings),
            maximum_concurrent_rpcs=CALLS_PER_WORKER * settings.workers,
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._access = access
        self._stopped = threading.Event()
        self._beside: list[Callable[[], None]] = []

    def _listen(self, service: str) -> int:
        """Starts to accept calls, and returns the port.  Raises OSError if the address is in use."""
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
            raise OSError(f"cannot listen on {address}; does another server use this port?") from error
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
        """Registers `stop` of another server of the same studies; it is called before their database is closed."""
        self._beside.append(stop)

    def stop(self) -> None:
        """Accepts no more calls, waits for running ones within the grace period, and closes."""
        self._health.enter_graceful_shutdown()
        ended = self._server.stop(self.settings.grace_seconds)  # does not wait, so that all share one grace period
        for stop in self._beside:
            stop()
        ended.wait()
        self._guard.close()
        self._close()
        self._stopped.set()

    def _close(self) -> None:
        """Closes what subclasses have opened."""


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
        lease_seconds: float | None = None,
    ):
        """
        Args:
          policy_factory: makes the policy of each study.
          database_url: URL for SQLAlchemy.
          settings: settings of the server.
          access: who may call.
          limits: limits on studies and trials.
          metrics: counts the calls.
          pythia_servers: servers that studies may name; default: any server on this machine.
          lease_seconds: a client without a call for this long loses its trials to others; None: never.

        Raises:
          AccessError: the server would accept calls from everyone.
          DatabaseError: the database belongs to another program.
          OSError: the address is in use, or another server uses the database.
        """
        check_database(database_url)  # before a lock is written beside it
        super().__init__(settings or Settings(), access or Access(), metrics or Metrics())
        self._lock = DatabaseLock(database_url)
        try:
            self.service = StudyService(database_url, policy_factory, limits, pythia_servers, lease_seconds)
            vizier_service_pb2_grpc.add_VizierServiceServicer_to_server(self.service, self._server)
            self.port = self._listen(VIZIER_SERVICE)
        except BaseException:
            self._lock.release()
            self._guard.close()
            raise

    def _close(self) -> None:
        self.service.close()
        self._lock.release()


class PythiaServer(_Server):
    """A server that only suggests, for studies of another server that name it as their `pythia_endpoint`."""

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
          policy_factory, settings, access, metrics: as for `VizierServer`.
          vizier_endpoint: HOST:PORT of the service that has the studies; it must be running.
          credentials: credentials for that service.

        Raises:
          AccessError, OSError: as `VizierServer`; also OSError if the service does not answer.
        """
        super().__init__(settings or Settings(), access or Access(), metrics or Metrics())
        try:
            self._vizier = connect(vizier_endpoint, credentials or Credentials())
        except BaseException:
            self._guard.close()
            raise
        try:
            stub = vizier_service_pb2_grpc.VizierServiceStub(self._vizier.channel)
            service = PolicyRunner(vizier_service=stub, policy_factory=policy_factory)
            pythia_service_pb2_grpc.add_PythiaServiceServicer_to_server(service, self._server)
            self.port = self._listen(PYTHIA_SERVICE)
        except BaseException:
            self._vizier.close()
            self._guard.close()
            raise

    def _close(self) -> None:
        self._vizier.close()


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """The server, stopped at the end of the block."""
    try:
        yield server
    finally:
        server.stop()
