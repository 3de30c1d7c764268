"""``POST /v1/chat/completions``: the stations of one request, in order.

Admit, read, check, translate, preprocess, generate, reply. Whatever holds a request up, the
route listens for the client's leaving meanwhile, and one who left costs a step at most.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dyvte.engine.events import Engine, EngineRequest, ModelInfo
from dyvte.errors import DyvteError, PromptError, QueueFull
from dyvte.params import FinishReason
from server.api.account import Clock
from server.api.body import read_json
from server.api.context import RequestRecord, record_of
from server.api.errors import from_engine
from server.api.exits import check_model
from server.api.guard import client_of
from server.api.reply import ReplyContext
from server.api.sse import EventStream, unless_gone
from server.api.streaming import OpenedStream, StreamReply
from server.api.timeout import deadline_of
from server.api.translate import translate
from server.api.validation import parse_chat
from server.api.whole import whole_reply
from server.deadline import in_time
from server.generate import Generation
from server.lifecycle import Lifecycle
from server.metrics import ServerMetrics
from server.preprocess import Prepared, Preprocessor
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Chat:
    """The route, with what it needs."""

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
        with ExitStack() as inside:
            engine = inside.enter_context(self.lifecycle.admit(client_of(request)))
            try:
                prepared = await in_time(self._prepare(request, engine, record), record.deadline)
                generation, context = self._begin(prepared, engine, record)
                if not prepared.job.stream:
                    body = await unless_gone(request.receive, whole_reply(generation, context))
                    self._note_answer(generation, context, record)
                    return Response(body, media_type="application/json")
                opened = OpenedStream(generation)
                await unless_gone(request.receive, opened.open(self.settings.keep_alive))
            except DyvteError as error:
                self._count_refusal(error)
                raise from_engine(error, record.request_id) from error
            return self._stream(opened, context, record, inside.pop_all())

    async def _prepare(self, request: Request, engine: Engine, record: RequestRecord) -> Prepared:
        raw = await read_json(request)
        model = raw.get("model")
        if isinstance(model, str):
            check_model(model, engine.info, self.settings)
        job = translate(parse_chat(raw), request.headers, engine, self.settings)
        record.notes |= {"model": job.model, "images": len(job.images), "stream": job.stream}
        return await unless_gone(request.receive, self.preprocessor.prepare(job, engine))

    def _begin(
        self, prepared: Prepared, engine: Engine, record: RequestRecord
    ) -> tuple[Generation, ReplyContext]:
        job = prepared.job
        reply_id = f"chatcmpl-{uuid.uuid4().hex}"
        record.notes |= {"reply": reply_id, "prompt_tokens": prepared.prompt_tokens}
        engine_request = EngineRequest(reply_id, prepared.prompt, job.sampling, job.exits)
        context = ReplyContext(
            id=reply_id,
            request_id=record.request_id,
            created=int(time.time()),
            model=job.model,
            fingerprint=fingerprint(engine.info, self.version),
            num_choices=job.sampling.n,
            prompt_tokens=prepared.prompt_tokens,
            clock=Clock(prepared.seconds, record.seconds),
            report=job.report,
            logprobs=job.sampling.logprobs is not None,
            include_usage=job.include_usage,
            token_bytes=engine.token_bytes,
            tool_names=frozenset(tool.name for tool in job.tools),
        )
        return Generation(engine, engine_request, record.deadline), context

    def _stream(
        self, opened: OpenedStream, context: ReplyContext, record: RequestRecord, inside: ExitStack
    ) -> Response:
        """The response that streams, and keeps the request admitted until it has ended."""

        def note(generation: Generation) -> None:
            self._note_answer(generation, context, record)

        reply = StreamReply(opened, context, note)
        inside.callback(lambda: setattr(record, "client_gone", not reply.complete))
        return EventStream(
            reply.events(),
            keep_alive=self.settings.keep_alive,
            write_timeout=self.settings.write_timeout,
            on_close=inside.close,
        )

    def _note_answer(
        self, generation: Generation, context: ReplyContext, record: RequestRecord
    ) -> None:
        """Log line and metrics of an answer that is complete."""
        stats = generation.stats
        if stats is None:
            return
        reasons = set(generation.finish_reasons.values())
        reason = FinishReason.LENGTH if FinishReason.LENGTH in reasons else FinishReason.STOP
        ttft, total = context.clock.ttft(stats), context.clock.total(stats)
        self.metrics.answered(reason, stats.policy, ttft, total)
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


def fingerprint(info: ModelInfo, version: str) -> str:
    """Changes with whatever may change a seeded answer."""
    said = "|".join((version, info.family, info.dtype, info.device, info.attention))
    return "fp_" + hashlib.sha256(said.encode()).hexdigest()[:10]
