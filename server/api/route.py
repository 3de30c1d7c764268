"""What the generating routes share: begin, then answer whole or as a stream.

Whatever holds a request up, the route listens for the client's leaving meanwhile, and one who
left costs a step at most.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response

from dyvte.engine.events import Engine, ModelInfo
from dyvte.engine.stats import RequestStats
from dyvte.errors import DyvteError, PromptError, QueueFull
from dyvte.params import FinishReason
from server.api.context import Answered, RequestRecord, record_of
from server.api.errors import from_engine
from server.api.reply import ReplyContext
from server.api.sse import EventStream, unless_gone
from server.api.streaming import OpenedStream, StreamReply
from server.api.timeout import deadline_of
from server.deadline import in_time
from server.generate import Generation
from server.generations import Answering
from server.lifecycle import Lifecycle
from server.metrics import ServerMetrics
from server.preprocess import Preprocessor
from server.settings import Settings

OnAnswer = Callable[[Answering], None]


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer about to be made, and how it is written: ``whole``, or ``streamed``."""

    answering: Answering
    context: ReplyContext
    stream: bool
    whole: Callable[[], Coroutine[Any, Any, bytes]]
    streamed: Callable[[OpenedStream, OnAnswer], StreamReply]


@dataclass(frozen=True, slots=True)
class Route(ABC):
    """A route that generates, with what it needs."""

    prompt_field: ClassVar[str] = "messages"

    settings: Settings
    lifecycle: Lifecycle
    preprocessor: Preprocessor
    metrics: ServerMetrics
    version: str

    async def answer(self, request: Request) -> Response:
        """One request, whole or streamed. Raises ApiError or ClientGone."""
        record = record_of(request)
        most = self.settings.request_timeout
        record.deadline = deadline_of(request.headers, most, record.seconds)
        engine = self.lifecycle.check_ready()
        try:
            begun = await in_time(self._begin(request, engine, record), record.deadline)
            record.body_done()
            if not begun.stream:
                body = await unless_gone(request.receive, begun.whole())
                self._note_answer(begun.answering, begun.context, record)
                return Response(body, media_type="application/json")
            opened = OpenedStream(begun.answering)
            await unless_gone(request.receive, opened.open(self.settings.keep_alive))
        except DyvteError as error:
            self._count_refusal(error)
            raise from_engine(error, record.request_id, self.prompt_field) from error
        return self._stream(opened, begun, record)

    @abstractmethod
    async def _begin(self, request: Request, engine: Engine, record: RequestRecord) -> Begun:
        """Read, check and prepare the request. Raises ApiError, DyvteError or ClientGone."""

    def _stream(self, opened: OpenedStream, begun: Begun, record: RequestRecord) -> Response:
        """The response that streams, and notes whether the client stayed to its end."""

        def note(answering: Answering) -> None:
            self._note_answer(answering, begun.context, record)

        reply = begun.streamed(opened, note)
        return EventStream(
            reply.events(),
            keep_alive=self.settings.keep_alive,
            write_timeout=self.settings.write_timeout,
            on_close=lambda: setattr(record, "client_gone", not reply.complete),
        )

    def _note_answer(
        self, answering: Answering, context: ReplyContext, record: RequestRecord
    ) -> None:
        """Log line and metrics of an answer that is complete."""
        for each in answering.each:
            self._note_generation(each, context, record)

    def _note_generation(
        self, generation: Generation, context: ReplyContext, record: RequestRecord
    ) -> None:
        stats = generation.stats
        if stats is None:
            return
        reasons = set(generation.finish_reasons.values())
        reason = FinishReason.LENGTH if FinishReason.LENGTH in reasons else FinishReason.STOP
        ttft, total = context.clock.ttft(stats), context.clock.total(stats)
        self.metrics.answered(reason, stats.policy, ttft, total)
        record.answers.append(_answered(generation, context, stats))
        record.notes |= {
            "completion_tokens": generation.completion_tokens,
            "finish_reason": reason.value,
            "policy": stats.policy,
            "exit_layer": stats.exit_layer,
            "saved_ratio": round(stats.flops.saved_ratio, 4),
            "queue_ms": round(stats.timings.queue * 1000, 1),
            "ttft_ms": round(ttft * 1000, 1),
        }

    def _count_refusal(self, error: DyvteError) -> None:
        if isinstance(error, QueueFull):
            self.metrics.refusal("queue_full")
        elif isinstance(error, PromptError):
            self.metrics.refusal("invalid_prompt")


def _answered(generation: Generation, context: ReplyContext, stats: RequestStats) -> Answered:
    clock, reasons = context.clock, sorted(generation.finish_reasons.items())
    return Answered(
        stats,
        generation.sampling,
        clock.preprocess,
        clock.before_submit,
        generation.completion_tokens,
        tuple(reason.value for _, reason in reasons),
    )


def fingerprint(info: ModelInfo, version: str) -> str:
    """Changes with whatever may change a seeded answer."""
    said = "|".join((version, info.family, info.dtype, info.device, info.attention))
    return "fp_" + hashlib.sha256(said.encode()).hexdigest()[:10]
