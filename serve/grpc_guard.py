"""gRPC interceptor: authenticates callers, limits the time of requests, and converts exceptions to statuses.

gRPC would receive and parse a request before it authenticates the caller.  So unary calls are handled as streams, whose
requests are read on demand: those of unauthenticated callers are never read.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from optformer.serve.access import Access
from optformer.serve.metrics import Metrics
from optformer.serve.statuses import status_of

_HEALTH: Final = "/grpc.health.v1.Health/"
_BUSY_SECONDS: Final = 1.0
"""Seconds within which a request must arrive while all workers are waiting for requests."""
_LOOK_SECONDS: Final = 0.1
_LOG = logging.getLogger(__name__)


class Guard(grpc.ServerInterceptor):
    """Wraps the handlers of unary calls."""

    def __init__(self, access: Access, metrics: Metrics, *, workers: int, request_seconds: float):
        """
        Args:
          access: how callers authenticate.
          metrics: counts calls by method and status.
          workers: number of concurrent calls.
          request_seconds: seconds within which a request must arrive after its headers.
        """
        self._access, self._metrics = access, metrics
        self._readers = _Readers(workers, request_seconds)

    def close(self) -> None:
        """Ends the thread that looks for slow requests."""
        self._readers.close()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(details)
        if handler is None:
            return None
        admitted = self._access.admits(details.invocation_metadata)
        if details.method.startswith(_HEALTH):
            return self._health(handler, admitted)
        method = details.method.rpartition("/")[2]

        def answered(requests: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            with self._metrics.call(method) as call:
                if not admitted:
                    call.status = "UNAUTHENTICATED"
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "this server needs `authorization: Bearer TOKEN`")
                request = self._readers.read(handler, requests, context)
                if isinstance(request, str):
                    call.status = "INVALID_ARGUMENT"
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, request)
                started = time.monotonic()
                try:
                    # Without the context: given one, Vizier's service sets an error status and then goes on.
                    return handler.unary_unary(request, None)
                except Exception as error:
                    code, said = status_of(error)
                    if code is grpc.StatusCode.INTERNAL:
                        _LOG.exception("%s failed after %.1f s", method, time.monotonic() - started)
                    call.status = code.name
                    context.abort(code, said)

        return grpc.stream_unary_rpc_method_handler(answered, response_serializer=handler.response_serializer)

    def _health(self, handler: grpc.RpcMethodHandler, admitted: bool) -> grpc.RpcMethodHandler:
        """Answers health checks without a token, which load balancers lack, without reading the request."""
        if handler.unary_unary is None:  # `Watch`
            if admitted:
                return handler
            return grpc.stream_unary_rpc_method_handler(_not_watched)

        def answered(requests: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            request: Any = health_pb2.HealthCheckRequest()
            if admitted:
                request = self._readers.read(handler, requests, context)
                if isinstance(request, str):
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, request)
            return handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(answered, response_serializer=handler.response_serializer)


def _not_watched(requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
    # With this status, clients assume a server without health checks, and call it.
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "`Watch` needs a token; use `Check` instead")


class _Readers:
    """Reads requests, and ends calls whose request does not arrive in time, since each of them blocks a worker."""

    def __init__(self, workers: int, seconds: float):
        self._workers, self._seconds = workers, seconds
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="slow requests", daemon=True)
        self._thread.start()

    def read(
        self, handler: grpc.RpcMethodHandler, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Message | str:
        """The request, or an error message if it is missing or invalid."""
        with self._lock:
            self._waiting[context] = time.monotonic()
        try:
            content = next(requests, None)
        finally:
            with self._lock:
                del self._waiting[context]
        if content is None:
            return "the call has no request"
        try:
            return handler.request_deserializer(content)
        except (DecodeError, ValueError):
            return "the request is not a message of this method"

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            with self._lock:
                busy = len(self._waiting) >= self._workers
                latest = time.monotonic() - (min(_BUSY_SECONDS, self._seconds) if busy else self._seconds)
                slow = [context for context, since in self._waiting.items() if since < latest]
            for context in slow:
                with contextlib.suppress(Exception):  # the call has just ended
                    context.cancel()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
