"""Connections of the HTTP server: limits on their number and on idle time.

uvicorn waits without limit for the first headers of a connection.  Here the headers of each request must arrive within
a time limit.  If all connections are in use, the one that has waited longest without a complete request is closed.
"""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES: Final = 16 * 2**10
"""Largest size of a request line and its headers."""
_REPLY_SECONDS: Final = 60.0
"""Seconds in which a caller must receive the last reply of a connection."""


class Connections:
    """Creates uvicorn's protocol object of each connection.

    Attributes:
      most: largest number of open connections.
      header_seconds: time within which a request line and its headers must arrive.
      waiting: connections without a complete request; the one that has waited longest is first.
    """

    def __init__(self, most: int, header_seconds: float):
        self.most, self.header_seconds = most, header_seconds
        self.waiting: dict[_Connection, None] = {}

    def __call__(self, *arguments: Any, **named: Any) -> "_Connection":
        return _Connection(self, *arguments, **named)


class _Connection(H11Protocol):
    def __init__(self, all_connections: Connections, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._all = all_connections
        self._headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._all.most:
            longest = next(iter(self._all.waiting), self)
            longest.connections.discard(longest)
            longest._waits_no_more()
            longest.transport.abort()
            if longest is self:
                return
        self._waits_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waits_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._headers_due is None and self.conn.their_state is h11.IDLE:
            self._waits_for_headers()  # uvicorn's timeout of idle connections ends with the first byte
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._have_headers()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._waits_no_more()

    def send_400_response(self, msg: str) -> None:
        # The body of a running call turned out to be invalid.  Only one of the call and this response may answer.
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(_REPLY_SECONDS, self.transport.abort)
        elif self.conn.their_state is h11.IDLE:
            self._all.waiting[self] = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(_REPLY_SECONDS, self.transport.abort)

    def _waits_for_headers(self) -> None:
        self._have_headers()
        self._all.waiting.setdefault(self)
        self._headers_due = self.loop.call_later(self._all.header_seconds, self.transport.abort)

    def _have_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _waits_no_more(self) -> None:
        self._have_headers()
        self._all.waiting.pop(self, None)


class Loop(asyncio.SelectorEventLoop):
    """Event loop that also ends connections whose TLS handshake does not start in time."""

    def __init__(self, handshake_seconds: float):
        super().__init__()
        self._handshake_seconds = handshake_seconds

    async def create_server(self, *arguments: Any, ssl: Any = None, **named: Any) -> Any:
        if ssl is not None:
            named["ssl_handshake_timeout"] = self._handshake_seconds
        return await super().create_server(*arguments, ssl=ssl, **named)
