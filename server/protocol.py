"""HTTP/1.1 with bounds that uvicorn's fast parser leaves open: on a head, and on an unread body.

A head must arrive within a deadline and a size: a client that drips header bytes, or never
stops, is closed before it costs more than that. A reply may come before the body has been read
(who is turned away, a wrong key): then the rest of the body runs out here, unread, so that the
client sees the reply and may use the connection again, within the bounds of a body that is read.

What is no HTTP at all never reaches the app; its 400 is written here, in the app's own form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.api.context import new_request_id
from server.api.errors import bad_request
from server.settings import Settings

log = structlog.get_logger("dyvte.request")

MAX_HEAD_BYTES = 64 * 1024


class HeadTooLarge(Exception):
    """Raised into the parser, which answers 400 and closes."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``bounded_protocol`` sets the bounds of a head and of a body, and who is told
    of each 400 that is written here."""

    on_malformed: Callable[[], None] = staticmethod(lambda: None)
    head_timeout_s = 10.0
    body_timeout_s = 60.0
    max_body_bytes = 64 * 2**20
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _in_body = False
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("Request head too large.")

    def send_400_response(self, msg: str) -> None:
        """OpenAI's form and a request id in place of the parent's line of text; then the end.

        Beside an answer that has begun it would be read as part of that: only the end.
        """
        last = self.cycle
        begun = last is not None and last.response_started and not last.response_complete
        if not begun and not self.pipeline:
            request_id = new_request_id()
            reply = bad_request(msg).response()
            reply.headers["X-Request-Id"] = request_id
            reply.headers["Connection"] = "close"
            head = (*self.server_state.default_headers, *reply.raw_headers)
            lines = [b"%b: %b\r\n" % (name, value) for name, value in head]
            self.transport.write(b"".join((STATUS_LINE[400], *lines, b"\r\n", bytes(reply.body))))
            log.info("request", id=request_id, status=400, reason=msg)
            self.on_malformed()
        self.transport.close()

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_head, self._in_body, self._unread_bytes = False, True, 0
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise HeadTooLarge
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > self.max_body_bytes:
                self._cut()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._disarm()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._arm(self.body_timeout_s)

    def _begin_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._arm(self.head_timeout_s)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(seconds, self._cut)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def bounded_protocol(
    settings: Settings, on_malformed: Callable[[], None] = lambda: None
) -> type[BoundedProtocol]:
    """The protocol class to give to uvicorn, which makes one object per connection itself."""
    bounds = {
        "on_malformed": staticmethod(on_malformed),
        "head_timeout_s": settings.header_timeout,
        "body_timeout_s": settings.body_timeout,
        "max_body_bytes": settings.max_body,
    }
    return type("BoundedProtocol", (BoundedProtocol,), bounds)
