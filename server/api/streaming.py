"""A streamed answer: role chunk, text deltas, finish chunk, usage chunk, ``[DONE]``.

The account rides on the last chunk: the one with the usage or, without it, the one with the
last finish_reason, which therefore waits for the engine's stats. What goes wrong after the
first byte becomes an error event; every stream ends with one or the other.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

import structlog

from dyvte.errors import DyvteError
from server.api.calls import DeltaWriter, finish_of
from server.api.chat_objects import ChatChunk, ChunkChoice, DeltaBody
from server.api.errors import ApiError, from_engine, internal
from server.api.reply import ReplyContext
from server.api.sse import DONE, event
from server.generate import Delta
from server.generations import Answering
from server.logs import traceback_of

log = structlog.get_logger("dyvte.request")


class OpenedStream:
    """A generation whose first delta was waited for, but not longer than clients wait in silence.

    An error that comes in that time still has a status of its own.
    """

    def __init__(self, generation: Answering) -> None:
        self.generation = generation
        self._deltas = generation.deltas()
        self._first: asyncio.Future[list[Delta] | None] | None = None

    async def open(self, patience_s: float) -> None:
        """Wait for the first delta. Raises EngineError."""
        self._first = asyncio.ensure_future(anext(self._deltas, None))
        try:
            await asyncio.wait({self._first}, timeout=patience_s)
            if self._first.done():
                self._first.result()
        except BaseException:
            await self.close()
            raise

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """All deltas, the first included."""
        assert self._first is not None, "open the stream first"
        step = await self._first
        while step is not None:
            for delta in step:
                yield delta
            step = await anext(self._deltas, None)

    async def close(self) -> None:
        """Abort what still runs."""
        if self._first is not None and not self._first.done():
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        await self._deltas.aclose()


class StreamReply(ABC):
    """The events of one answer. ``complete`` is true once the last one was handed out.

    ``ending`` follows a last chunk, but no error.
    """

    ending: ClassVar[bytes] = DONE

    def __init__(
        self, opened: OpenedStream, context: ReplyContext, on_answer: Callable[[Answering], None]
    ) -> None:
        self._opened = opened
        self._context = context
        self._on_answer = on_answer
        self.complete = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Bytes as they go on the wire."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield self._framed(chunk)
            self.complete = True
            if self.ending:
                yield self.ending
        except (ApiError, DyvteError) as error:
            self.complete = True
            yield self._last_words(error)
        except Exception as error:
            log.error("fault", id=self._context.request_id, exception=traceback_of(error))
            self.complete = True
            yield self._last_words(internal(self._context.request_id))
        finally:
            await self._opened.close()

    @abstractmethod
    def _chunks(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """What is said, in order; the last one carries the account."""

    def _framed(self, chunk: Mapping[str, Any]) -> bytes:
        """One chunk on the wire."""
        return event(chunk)

    def _last_words(self, error: ApiError | DyvteError) -> bytes:
        """What a stream ends with that went wrong."""
        told = (
            error if isinstance(error, ApiError) else from_engine(error, self._context.request_id)
        )
        return b"data: " + told.body + b"\n\n"


class ChatStreamReply(StreamReply):
    """The events of a chat: each choice's role, its deltas, its finish reason."""

    async def _chunks(self) -> AsyncGenerator[ChatChunk, None]:
        generation, context = self._opened.generation, self._context
        for index in range(context.num_choices):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        writers = [
            DeltaWriter(context.tool_names, context.calls_lead) for _ in range(context.num_choices)
        ]
        last: ChatChunk | None = None
        async with aclosing(self._opened.deltas()) as steps:
            async for delta in steps:
                writer = writers[delta.index]
                for chunk in self._said(delta, writer):
                    yield chunk
                if delta.finish_reason is None:
                    continue
                if last is not None:
                    yield last
                reason = finish_of(delta.finish_reason, writer.calls)
                last = self._chunk(delta.index, {}, None, reason)
                if len(generation.finish_reasons) < context.num_choices:
                    yield last
                    last = None
        assert last is not None, "a generation that ends has finished its last choice"
        self._on_answer(generation)
        if context.include_usage:
            yield last
            last = context.chunk([], generation)
            last["usage"] = context.usage(generation)
        context.add_account(last, generation)
        yield last

    def _said(self, delta: Delta, writer: DeltaWriter) -> list[ChatChunk]:
        """The chunks of one delta; log-probabilities ride on the first."""
        bodies = writer.write(delta.text, last=delta.finish_reason is not None)
        if delta.tokens and not bodies:
            bodies = [{"content": ""}]  # its text is held back; its tokens are told now
        return [
            self._chunk(delta.index, body, None if at else delta) for at, body in enumerate(bodies)
        ]

    def _chunk(
        self, index: int, body: DeltaBody, delta: Delta | None = None, reason: str | None = None
    ) -> ChatChunk:
        logprobs = None
        if self._context.logprobs and delta is not None:
            logprobs = self._context.logprobs_of(delta.tokens)
        choice: ChunkChoice = {
            "index": index,
            "delta": body,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return self._context.chunk([choice], self._opened.generation)
