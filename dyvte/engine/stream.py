"""One request's way out of the engine thread and into its caller's event loop.

The engine keeps the ``Outbox``, the caller the ``Stream``. They are two so that a caller who
merely drops the stream lets it be collected, which aborts the request like a regular close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from dyvte.engine.events import TokenEvent
from dyvte.engine.sequence import RequestState
from dyvte.errors import EngineError

Item = Sequence[TokenEvent] | EngineError


@dataclass(eq=False, slots=True)
class Outbox:
    """The engine's end. ``closed`` is set by the caller's side and read by the engine's."""

    state: RequestState
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[Item | None] = field(default_factory=asyncio.Queue)
    closed: bool = False

    @property
    def request_id(self) -> str:
        """The caller's name of the request."""
        return self.state.request.request_id

    def put(self, item: Item) -> bool:
        """Hand an item over from any thread; False if the caller's loop is gone."""
        try:
            self.loop.call_soon_threadsafe(self.items.put_nowait, item)
        except RuntimeError:
            return False
        return True


class Stream:
    """The caller's end: an async iterator of event lists."""

    def __init__(self, outbox: Outbox, close: Callable[[Outbox], None]) -> None:
        self._outbox = outbox
        self._close = close
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[TokenEvent]:
        """The next step's events. Raises RequestFailed, EngineStopped."""
        if self._ended:
            raise StopAsyncIteration
        try:
            item = await self._outbox.items.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if item is None or self._ended:  # closed meanwhile, by another task
            raise StopAsyncIteration
        if isinstance(item, EngineError):
            self._ended = True
            raise item
        self._ended = item[-1].stats is not None
        return item

    async def aclose(self) -> None:
        """Abort the request if it still runs, and wake whoever waits for its next event."""
        if not self._ended:
            self._ended = True
            self._outbox.items.put_nowait(None)
            self._close(self._outbox)

    def __del__(self) -> None:
        if not self._ended:
            self._close(self._outbox)
