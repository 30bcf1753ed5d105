"""Connections to other servers: with a token, over TLS, and only to allowed servers."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Final

import grpc
from google.protobuf.message import Message
from vizier._src.service import pythia_service_pb2_grpc

from optformer.serve.access import is_loopback

WAIT_SECONDS: Final = 10.0

# Reconnects soon after a server has restarted, instead of after a minute.
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Credentials of a caller, and how it verifies the called server.

    Attributes:
      token: token of the called server.
      authorities: CA certificates (PEM), one of which must have signed the called server's certificate; None: no TLS.
      certificate, key: the caller's certificate and private key (PEM), for servers that ask for them.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    authorities: bytes | None = dataclasses.field(default=None, repr=False)
    certificate: bytes | None = dataclasses.field(default=None, repr=False)
    key: bytes | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Connection:
    """Attributes: channel: makes calls.  close: ends all calls and the connection."""

    channel: grpc.Channel
    close: Callable[[], None]


def connect(endpoint: str, credentials: Credentials, timeout: float | None = None) -> Connection:
    """Connects to a server and waits until it answers.

    Args:
      endpoint: HOST:PORT.
      timeout: seconds to wait for the server, `WAIT_SECONDS` if None.

    Raises:
      OSError: the server does not answer.
    """
    if credentials.authorities is None:
        channel = grpc.insecure_channel(endpoint, _OPTIONS)
    else:
        tls = grpc.ssl_channel_credentials(credentials.authorities, credentials.key, credentials.certificate)
        channel = grpc.secure_channel(endpoint, tls, _OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(WAIT_SECONDS if timeout is None else timeout)
    except grpc.FutureTimeoutError:
        channel.close()
        raise OSError(f"no server answers at {endpoint}") from None
    token = credentials.token
    return Connection(channel if token is None else grpc.intercept_channel(channel, _Token(token)), channel.close)


class PythiaServers:
    """The servers that studies may name as their `pythia_endpoint`, and the connections to them.

    Without this list, anyone who may create a study could make the service connect, and send its token, to any address.
    """

    def __init__(self, endpoints: Sequence[str] = (), credentials: Credentials | None = None):
        """`endpoints`: HOST:PORT of each server, in addition to all servers on this machine."""
        self._endpoints, self._credentials = frozenset(endpoints), credentials or Credentials()
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()

    def check(self, endpoint: str) -> None:
        """Raises ValueError for a server that may not be called."""
        if endpoint not in self._endpoints and not is_loopback(endpoint.rpartition(":")[0]):
            raise ValueError(f"this server may not call the pythia_endpoint {endpoint!r}; allow it with --pythia")

    def stub(self, endpoint: str) -> pythia_service_pb2_grpc.PythiaServiceStub:
        """A client of the server.  Raises ValueError as `check`, and OSError if the server does not answer."""
        self.check(endpoint)
        with self._lock:
            connection = self._connections.get(endpoint)
        if connection is None:
            connection = connect(endpoint, self._credentials)
            with self._lock:
                known = self._connections.setdefault(endpoint, connection)
            if known is not connection:
                connection.close()
                connection = known
        return pythia_service_pb2_grpc.PythiaServiceStub(connection.channel)

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()


class _Details(
    collections.namedtuple(
        "_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")
    ),
    grpc.ClientCallDetails,
):
    pass


class _Token(grpc.UnaryUnaryClientInterceptor):
    """Adds the token to every call."""

    def __init__(self, token: str):
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Message], grpc.Call],
        details: grpc.ClientCallDetails,
        request: Message,
    ) -> grpc.Call:
        metadata = [*(details.metadata or ()), self._header]
        fields = {name: getattr(details, name, None) for name in _Details._fields}
        return continuation(_Details(**{**fields, "metadata": metadata}), request)
