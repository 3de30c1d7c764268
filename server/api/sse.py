"""Server-sent events: typed objects in, ``data: …`` lines out, and a reader who may leave or stall.

While the engine is silent a comment line keeps proxies awake. A reader who has gone ends the
answer at once, one who does not read for ``write_timeout`` seconds likewise, so that buffers
stay as small as the transport's. Closing the source of events aborts the request behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.body import ClientGone

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"


def event(value: Mapping[str, Any]) -> bytes:
    """One event with ``value`` as JSON."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves. Raises ClientGone."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


class EventStream(Response):
    """A response that writes events as they come; ``on_close`` is called once, however it ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        keep_alive: float,
        write_timeout: float,
        on_close: Callable[[], None],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._keep_alive = keep_alive
        self._write_timeout = write_timeout
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(receive, send)
        finally:
            await self._events.aclose()
            self._on_close()

    async def _serve(self, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        writer = asyncio.ensure_future(self._write(send))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({writer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writer, gone):
                task.cancel()
            await asyncio.gather(writer, gone, return_exceptions=True)
        if not writer.cancelled() and (error := writer.exception()) is not None:
            raise error

    async def _write(self, send: Send) -> None:
        """Write until the source ends; a stalled reader ends it too."""
        waiting: asyncio.Future[bytes | None] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(self._events, None))
                await asyncio.wait({waiting}, timeout=self._keep_alive)
                chunk = waiting.result() if waiting.done() else ALIVE
                if chunk is None:
                    break
                if waiting.done():
                    waiting = None
                async with asyncio.timeout(self._write_timeout):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            return
        finally:
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
