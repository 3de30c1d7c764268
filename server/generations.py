"""Several generations read as one: each prompt's choices get the next indices.

Whatever ends the reading (an error of one, a reader who leaves) aborts them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from dyvte.engine.stats import RequestStats
from dyvte.params import FinishReason
from server.generate import Delta, Generation

Step = list[Delta] | BaseException | None


class Answering(Protocol):
    """What a reply reads of one or several generations."""

    @property
    def each(self) -> Sequence[Generation]:
        """One per prompt."""

    @property
    def stats(self) -> RequestStats | None:
        """The account, once there is one for all."""

    @property
    def finish_reasons(self) -> dict[int, FinishReason]:
        """Why each choice ended, of those that have."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""

    def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """What each step added."""


class Generations:
    """``each`` with ``choices`` choices; no account, since theirs are several."""

    stats: RequestStats | None = None

    def __init__(self, each: Sequence[Generation], choices: int) -> None:
        self.each: Sequence[Generation] = each
        self._choices = choices

    @property
    def finish_reasons(self) -> dict[int, FinishReason]:
        """By index over all."""
        return {
            at * self._choices + index: reason
            for at, generation in enumerate(self.each)
            for index, reason in generation.finish_reasons.items()
        }

    @property
    def completion_tokens(self) -> int:
        """Of all together."""
        return sum(generation.completion_tokens for generation in self.each)

    async def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """As they come, from whichever."""
        steps: asyncio.Queue[Step] = asyncio.Queue()
        readers = [
            asyncio.ensure_future(self._read(at, generation, steps))
            for at, generation in enumerate(self.each)
        ]
        try:
            running = len(readers)
            while running:
                step = await steps.get()
                if isinstance(step, BaseException):
                    raise step
                if step is None:
                    running -= 1
                else:
                    yield step
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, at: int, generation: Generation, steps: asyncio.Queue[Step]) -> None:
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for step in deltas:
                    first = at * self._choices
                    steps.put_nowait([replace(delta, index=first + delta.index) for delta in step])
            steps.put_nowait(None)
        except Exception as error:
            steps.put_nowait(error)
