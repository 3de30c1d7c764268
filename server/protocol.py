"""HTTP/1.1 with bounds on the head of a request, which uvicorn's fast parser leaves open.

A head must arrive within a deadline and a size: a client that drips header bytes, or never
stops, is closed before it costs more than that.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class HeadTooLarge(Exception):
    """Raised into the parser, which answers 400 and closes."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``head_timeout_s`` is set by ``bounded_protocol``."""

    head_timeout_s = 10.0
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end_head()
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise HeadTooLarge
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._in_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _end_head(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def bounded_protocol(head_timeout_s: float) -> type[BoundedProtocol]:
    """The protocol class to give to uvicorn, which makes one object per connection itself."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_timeout_s": head_timeout_s})
