"""ASGI middleware of the HTTP server: authenticates callers, limits bodies, and refuses calls during shutdown.

The application only sees calls that have passed, with their complete body.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from optformer.serve.access import Access, is_loopback
from optformer.serve.http_api import HEALTH_PATH
from optformer.serve.http_connections import HEADER_BYTES
from optformer.serve.http_errors import Refusal
from optformer.serve.http_pages import is_page
from optformer.serve.metrics import Call, Metrics

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_DISCARDED: Final = 4
"""Up to this multiple of the size limit, a body that is too large is read and discarded, because callers do not read
the reply before they have sent everything."""
_BODIES: Final = 4
"""Largest total size of all bodies in memory, as a multiple of the size limit; small bodies do not count."""
_SMALL: Final = 64 * 2**10
"""Bodies up to this many bytes do not count towards the total size."""
_ASK_PEOPLE: Final = 'Basic realm="OptFormer: any user name, and the token as password", charset="UTF-8"'
_WITH_BODY: Final = ("POST", "PUT", "PATCH")
_LOG = logging.getLogger(__name__)


class Guard:
    """Attributes: stopping: whether calls are refused because the server is stopping."""

    def __init__(
        self,
        application: Application,
        access: Access,
        metrics: Metrics,
        *,
        host: str,
        body_bytes: int,
        body_seconds: float,
        most_calls: int,
    ):
        """
        Args:
          application: the application to protect.
          access: who may call.
          metrics: counts calls by path and status.
          host: address that the server listens on.
          body_bytes: largest size of a body.
          body_seconds: time within which a body must arrive.
          most_calls: largest number of calls that run or wait after their request has arrived.
        """
        self._application, self._access, self._metrics = application, access, metrics
        # A foreign web page can make a browser call this machine under a name of its own (DNS rebinding).  Such a page
        # cannot send the token.
        self._only_local_names = is_loopback(host) and access.token is None and not access.insecure
        self._body_bytes, self._body_seconds, self._most_calls = body_bytes, body_seconds, most_calls
        self._calls, self._room = 0, _Room(_BODIES * body_bytes)
        self.stopping = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        with self._metrics.call("unknown path") as call:
            try:
                await self._answer(scope, receive, _Sent(send, call))
            finally:
                route = scope.get("route")
                if route is not None and scope["method"] in route.methods:  # else callers could create endless labels
                    call.method = f"{scope['method']} {route.path}"

    async def _answer(self, scope: Message, receive: Receive, send: "_Sent") -> None:
        try:
            self._admit(scope)
            if not _may_have_body(scope):
                await self._run(scope, b"", receive, send)
                return
            kept = _Kept(self._room)
            try:
                body = await self._body(scope, receive, kept)
                if body is None:
                    send.call.status = "disconnected"
                    return
                await self._run(scope, body, receive, send)
            finally:
                kept.give_back()
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except asyncio.CancelledError:
            # The grace period is over.  A call that runs in a thread still ends there, but its result is lost.
            if not self.stopping or send.started:
                raise
            await _unavailable("the server has stopped").response()(scope, receive, send)
        except Exception as error:
            _LOG.exception("%s failed", scope["method"])
            if send.started:
                raise
            said = f"internal error ({type(error).__name__}); the server's log has the details"
            await Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", said).response()(scope, receive, send)

    async def _run(self, scope: Message, body: bytes, receive: Receive, send: "_Sent") -> None:
        if not _asks_for_health(scope) and self._calls >= self._most_calls:
            raise _unavailable(f"{self._most_calls} calls are already running or waiting; try again")
        self._calls += 1
        try:
            await self._application(scope, _replayed(body, receive), send)
        finally:
            self._calls -= 1

    def _admit(self, scope: Message) -> None:
        """Raises `Refusal` for a call that is not allowed; does not read the body."""
        if self.stopping:
            raise _unavailable("the server is stopping")
        # The parser accepts larger headers if they arrive in one piece.
        if (
            sum(map(len, (scope["raw_path"], scope["query_string"], *itertools.chain(*scope["headers"]))))
            > HEADER_BYTES
        ):
            raise Refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RESOURCE_EXHAUSTED",
                f"path and headers may have at most {HEADER_BYTES} bytes",
                {"connection": "close"},
            )
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        announced = headers.get(b"content-length")
        if announced is not None and b"transfer-encoding" in headers:
            # If a proxy uses one of the two lengths and this server the other, the rest of the body would be parsed as
            # the next caller's request (request smuggling).
            raise _malformed("a request must have either a content-length or a transfer-encoding, not both")
        if not _may_have_body(scope) and (announced or "0").strip("0") + headers.get(b"transfer-encoding", ""):
            raise _malformed(f"{scope['method']} takes no body")
        if _asks_for_health(scope):
            return
        if self._only_local_names and not _is_local(headers.get(b"host", "")):
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "PERMISSION_DENIED",
                "this server must be called by the name localhost or by a loopback address",
            )
        page = is_page(scope["method"], scope["path"])
        if not self._access.admits([(name.decode("latin-1"), value) for name, value in scope["headers"]], page):
            wanted = "this server needs `authorization: Bearer TOKEN`"
            if page:
                wanted += ", or the token as password; the user name may be anything"
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHENTICATED",
                wanted,
                {"www-authenticate": _ASK_PEOPLE if page else "Bearer", "connection": "close"},
            )
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if _may_have_body(scope) and kind != "application/json":
            raise Refusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                "the body must have `content-type: application/json`",
                {"connection": "close"},
            )

    async def _body(self, scope: Message, receive: Receive, kept: "_Kept") -> bytes | None:
        """The complete body; None if the caller disconnected.  Raises `Refusal` if it is too large or too slow."""
        declared = [value for name, value in scope["headers"] if name == b"content-length"]
        most = self._body_bytes
        parts: list[bytes] = []
        size, announced = 0, int(declared[0]) if declared else 0
        try:
            async with asyncio.timeout(self._body_seconds):
                more = announced <= _DISCARDED * most
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message["body"])
                    if max(size, announced) <= most:
                        kept.take(len(message["body"]))
                        parts.append(message["body"])
                    else:
                        parts.clear()
                        kept.give_back()
                    more = message.get("more_body", False) and size <= _DISCARDED * most
        except TimeoutError:
            said = f"the body did not arrive within {self._body_seconds:g} seconds"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "DEADLINE_EXCEEDED", said, {"connection": "close"}) from None
        if max(size, announced) > most:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "RESOURCE_EXHAUSTED",
                f"a body may have at most {most} bytes",
                {"connection": "close"},
            )
        return b"".join(parts)


class _Room:
    """Remaining memory for the bodies of all calls."""

    def __init__(self, size: int):
        self.left = size


class _Kept:
    """Memory that one body occupies."""

    def __init__(self, room: _Room):
        self._room, self._size, self._taken = room, 0, 0

    def take(self, size: int) -> None:
        """Raises `Refusal` if there is not enough memory left."""
        self._size += size
        more = max(0, self._size - _SMALL) - self._taken
        if more > self._room.left:
            raise _unavailable("the server is busy with other large requests; try again")
        self._room.left -= more
        self._taken += more

    def give_back(self) -> None:
        self._room.left += self._taken
        self._size = self._taken = 0


class _Sent:
    """Wraps `send`, and records the status of the reply."""

    def __init__(self, send: Send, call: Call):
        self._send, self.call, self.started = send, call, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.call.status = True, str(int(message["status"]))
        await self._send(message)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was read before, then what follows it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _may_have_body(scope: Message) -> bool:
    return scope["method"] in _WITH_BODY


def _asks_for_health(scope: Message) -> bool:
    """Whether a call asks for the server's health, which needs no token."""
    return scope["path"] == HEALTH_PATH and not _may_have_body(scope)


def _malformed(said: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", said, {"connection": "close"})


def _is_local(host: str) -> bool:
    """Whether a Host header, with its port, names this machine by a loopback address."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _unavailable(said: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", said, {"retry-after": "1", "connection": "close"})
