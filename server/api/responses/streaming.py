"""A streamed response: created, in progress, its items as they grow, and how it ended.

The last event carries the whole response with usage and account. What goes wrong after the first
byte becomes an ``error`` event and then ``response.failed``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

import orjson

from dyvte.errors import DyvteError
from dyvte.params import FinishReason
from server.api.errors import ApiError, from_engine
from server.api.reply import ReplyContext
from server.api.responses.events import ErrorEvent, LifecycleEvent, ResponseEvent
from server.api.responses.reply import Echo, begun, ended, failed
from server.api.responses.writer import OutputWriter
from server.api.sse import event
from server.api.streaming import OpenedStream, StreamReply
from server.generations import Answering

PROMPT_FIELD = "input"
# OpenAI's list of what a response may fail with is closed; the error event says it in our words.
CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
FAULT = "server_error"


class ResponseStreamReply(StreamReply):
    """The events of one response. Nothing follows the last one, as with OpenAI's."""

    ending: ClassVar[bytes] = b""

    def __init__(
        self,
        opened: OpenedStream,
        context: ReplyContext,
        on_answer: Callable[[Answering], None],
        echo: Echo,
    ) -> None:
        super().__init__(opened, context, on_answer)
        self._echo = echo
        self._writer = OutputWriter(context)

    async def _chunks(self) -> AsyncGenerator[ResponseEvent, None]:
        context, writer, answering = self._context, self._writer, self._opened.generation
        for kind in ("response.created", "response.in_progress"):
            yield self._at(kind)
        async with aclosing(self._opened.deltas()) as deltas:
            async for delta in deltas:
                for each in writer.write(delta):
                    yield each
        self._on_answer(answering)
        cut = is_cut(answering)
        yield {
            "type": "response.incomplete" if cut else "response.completed",
            "sequence_number": writer.number(),
            "response": ended(context, self._echo, writer.output, answering, cut),
        }

    def _at(self, kind: Any) -> LifecycleEvent:
        """The response as it is now."""
        response = begun(self._context, self._echo, list(self._writer.output))
        return {"type": kind, "sequence_number": self._writer.number(), "response": response}

    def _framed(self, chunk: Mapping[str, Any]) -> bytes:
        return b"event: %b\n%b" % (chunk["type"].encode(), event(chunk))

    def _last_words(self, error: ApiError | DyvteError) -> bytes:
        if isinstance(error, DyvteError):
            error = from_engine(error, self._context.request_id, PROMPT_FIELD)
        detail = error.detail
        told: ErrorEvent = {
            "type": "error",
            "sequence_number": self._writer.number(),
            "code": detail["code"],
            "message": detail["message"],
            "param": detail["param"],
        }
        code = CODES.get(error.status, FAULT)
        last: LifecycleEvent = {
            "type": "response.failed",
            "sequence_number": self._writer.number(),
            "response": failed(
                self._context,
                self._echo,
                self._writer.output,
                {"code": code, "message": detail["message"]},
            ),
        }
        return self._framed(told) + self._framed(last)


async def whole_response(answering: Answering, context: ReplyContext, echo: Echo) -> bytes:
    """The body of a whole answer. Raises EngineError."""
    writer = OutputWriter(context)
    async with aclosing(answering.deltas()) as deltas:
        async for step in deltas:
            for delta in step:
                writer.write(delta)
    return orjson.dumps(ended(context, echo, writer.output, answering, is_cut(answering)))


def is_cut(answering: Answering) -> bool:
    """True if the answer ended at its length."""
    return FinishReason.LENGTH in answering.finish_reasons.values()
