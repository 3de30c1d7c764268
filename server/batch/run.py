"""Lines of a batch → the app, in this process, many at a time → lines of answers.

Every line takes the way of a request that came over a socket, so that what is refused and what
is answered are the server's own. So many lines are read as are in flight, and no more. What need
not be asked is dealt with on the way, without the app.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import orjson

from dyvte.errors import EngineError
from server.batch.answers import PREFIX, answer, refusal
from server.batch.lines import BadLine, Line

JSON = {"content-type": "application/json"}
AGAIN_S = 0.05

Entry = Mapping[str, Any]


class BatchStopped(EngineError):
    """The engine takes no more requests; the rest of the lines is as it was."""


def to_ask(
    lines: Iterator[Line | BadLine | None],
    deliver: Callable[[Entry], None],
    on_skipped: Callable[[], None],
) -> Iterator[Line]:
    """The requests among ``lines``; ``deliver`` gets the refusal of what is none, as it comes."""
    for line in lines:
        if line is None:
            on_skipped()
        elif isinstance(line, BadLine):
            deliver(refusal(_new_id(), line))
        else:
            yield line


def _new_id() -> str:
    return PREFIX + uuid.uuid4().hex


class Runner:
    """Asks ``lines``; ``deliver`` gets every answer as it comes."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        lines: Iterator[Line],
        deliver: Callable[[Entry], None],
        max_bytes: int,
    ) -> None:
        self._client = client
        self._lines = lines
        self._deliver = deliver
        self._max_bytes = max_bytes
        self._held = self._inside = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def run(self, at_once: int) -> None:
        """All lines, ``at_once`` at a time. Raises BatchStopped, OSError."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self._work())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _work(self) -> None:
        while (line := await self._next()) is not None:
            try:
                self._deliver(await self._ask(_new_id(), line))
            finally:
                self._held -= len(line.body)
                self._inside -= 1
                self._freed.set()

    async def _next(self) -> Line | None:
        """The next line to ask, once its body fits beside those in flight."""
        async with self._turn:
            line = next(self._lines, None)
            if line is not None:
                await self._room_for(len(line.body))
            return line

    async def _room_for(self, size: int) -> None:
        while self._inside and self._held + size > self._max_bytes:
            self._freed.clear()
            await self._freed.wait()
        self._held += size
        self._inside += 1

    async def _ask(self, entry_id: str, line: Line) -> Entry:
        while True:
            reply = await self._client.post(line.url, content=line.body, headers=JSON)
            body = orjson.loads(reply.content)
            if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                raise BatchStopped(f"{body['error']['message']} Run it again to go on")
            # A full house is no answer; alone in it, a line has nothing to wait for.
            if reply.status_code != httpx.codes.TOO_MANY_REQUESTS or self._inside == 1:
                request_id = reply.headers["x-request-id"]
                return answer(entry_id, line.custom_id, reply.status_code, request_id, body)
            await asyncio.sleep(AGAIN_S)
