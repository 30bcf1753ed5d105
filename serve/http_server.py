"""JSON over HTTP in addition to the gRPC service, for languages without a Vizier client.

    vizier = VizierServer(policy_factory, database_url="sqlite:///studies.db")
    http = HttpServer(vizier.service, model, Settings(port=28081), metrics=vizier.metrics)
    vizier.stop_with(http.stop)

Both answer from one `StudyService`: its database, limits and locks.  The paths are described at `/openapi.json`.
"""

import asyncio
import math
import socket
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvicorn

from optformer.facade import OptFormer
from optformer.serve.access import Access, AccessError
from optformer.serve.gallery import Gallery
from optformer.serve.grpc_server import CALLS_PER_WORKER, Settings
from optformer.serve.http_api import make_app
from optformer.serve.http_connections import HEADER_BYTES, Connections, Loop
from optformer.serve.http_guard import Guard
from optformer.serve.metrics import Metrics
from optformer.serve.studies import StudyService

HTTP_PORT: Final = 28081
_IDLE_SECONDS: Final = 15
"""Seconds after which a connection without a request is closed."""
_START_SECONDS: Final = 30.0


class HttpServer:
    """An HTTP server, which runs in its own thread from its creation on.

    Attributes:
      port: the port that it listens on.
    """

    def __init__(
        self,
        studies: StudyService,
        model: OptFormer,
        settings: Settings | None = None,
        access: Access | None = None,
        metrics: Metrics | None = None,
    ):
        """
        Args:
          studies: the service that stores the studies.
          model: the model that predicts.
          settings: as for the gRPC server.  At most `workers` calls that use the database run at the same time, and as
            many that use a model; others wait.  If 8 x `workers` calls run or wait in all, further ones are refused.
          access: who may call.
          metrics: counts the calls by path.

        Raises:
          AccessError: the server would accept calls from everyone, or certificate and key do not match.
          OSError: the address is in use.
        """
        self.settings = settings or Settings(port=HTTP_PORT)
        access, metrics = access or Access(), metrics or Metrics()
        access.check(self.settings.host)
        context = _tls(access) if access.tls else None
        self._scheme = "http" if context is None else "https"
        workers = self.settings.workers
        self._pools = [ThreadPoolExecutor(workers, thread_name_prefix=f"http {name}") for name in ("quick", "slow")]
        quick, slow = self._pools
        self._gallery = Gallery(studies, model)
        bearer = access.token is not None
        app = make_app(studies, model, metrics.registry, quick, slow, bearer, self._gallery)
        self._guard = Guard(
            app,
            access,
            metrics,
            host=self.settings.host,
            body_bytes=self.settings.message_bytes,
            body_seconds=self.settings.request_seconds,
            most_calls=CALLS_PER_WORKER * workers,
        )
        config = uvicorn.Config(
            self._guard,
            http=Connections(self.settings.connections, self.settings.header_seconds),  # type: ignore[arg-type]
            h11_max_incomplete_event_size=HEADER_BYTES,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # else each call that is not HTTP writes a line
            access_log=False,
            proxy_headers=False,  # headers that name another caller are not trusted
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, math.ceil(self.settings.grace_seconds)),
            ssl_context_factory=None if context is None else lambda config, default: context,
        )
        self._server = uvicorn.Server(config)
        listener = _listen(self.settings.host, self.settings.port)
        self.port = int(listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, args=(listener,), name="http", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                listener.close()
                raise OSError(f"the HTTP server did not start at {self.url}; the log says why")
            time.sleep(0.005)

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: Loop(self.settings.header_seconds)) as runner:
            runner.run(self._server.serve([listener]))

    @property
    def url(self) -> str:
        """SCHEME://HOST:PORT."""
        host = self.settings.host.strip("[]")
        return f"{self._scheme}://[{host}]:{self.port}" if ":" in host else f"{self._scheme}://{host}:{self.port}"

    def stop(self) -> None:
        """Stops: accepts no more calls, waits for running ones within the grace period, and closes."""
        self._guard.stopping = True
        self._server.should_exit = True
        self._thread.join()
        self._gallery.close()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError if the address is in use or invalid."""
    host = host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _tls(access: Access) -> ssl.SSLContext:
    """TLS settings with the certificates.  Raises `AccessError` if they are invalid or do not match each other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # `ssl` reads a key from a file only.
    with tempfile.TemporaryDirectory(prefix="optformer-") as directory:
        certificate, key = Path(directory) / "certificate.pem", Path(directory) / "key.pem"
        for file, content in ((certificate, access.certificate), (key, access.key)):
            file.touch(mode=0o600)
            file.write_bytes(content or b"")
        try:
            # With an empty password, OpenSSL does not ask on the terminal for the password of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
            if access.client_authorities is not None:
                context.load_verify_locations(cadata=access.client_authorities.decode("ascii"))
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise AccessError(
                f"the TLS certificate, its key or the client authorities cannot be used: {error}"
            ) from error
    return context
