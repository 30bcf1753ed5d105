"""Number and duration of calls, for Prometheus."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclasses.dataclass
class Call:
    """A call that is being answered.

    Attributes:
      method: the called method; for HTTP, it is set after the call has begun.
      status: name of its gRPC status or number of its HTTP status.
    """

    method: str
    status: str = "OK"


class Metrics:
    """Metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter("optformer_calls", "Calls answered.", ["method", "status"], registry=self.registry)
        self._seconds = Histogram(
            "optformer_call_seconds", "Time per call.", ["method"], buckets=_SECONDS, registry=self.registry
        )
        self._running = Gauge("optformer_calls_running", "Calls being answered.", registry=self.registry)

    @contextlib.contextmanager
    def call(self, method: str) -> Iterator[Call]:
        """Context manager around the handling of one call."""
        call, started = Call(method), time.monotonic()
        self._running.inc()
        try:
            yield call
        except BaseException:
            # The call ended without setting a status.
            call.status = "UNKNOWN" if call.status == "OK" else call.status
            raise
        finally:
            self._running.dec()
            self._calls.labels(call.method, call.status).inc()
            self._seconds.labels(call.method).observe(time.monotonic() - started)

    def serve(self, host: str, port: int) -> int:
        """Serves `GET /metrics` in its own thread.  Returns the port, which is any free one if `port` is 0."""
        server, _ = start_http_server(port, addr=host, registry=self.registry)
        return int(server.server_port)
