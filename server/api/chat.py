"""``POST /v1/chat/completions``: what of a request's way is a chat's own.

Read, check, translate, preprocess, generate; ``server.api.route`` is the way itself.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from starlette.requests import Request

from dyvte.engine.events import Engine, EngineRequest
from server.api.account import Clock
from server.api.body import read_json
from server.api.context import RequestRecord
from server.api.exits import check_model
from server.api.guard import client_of
from server.api.reply import ReplyContext
from server.api.route import Begun, Route, fingerprint
from server.api.sse import unless_gone
from server.api.streaming import ChatStreamReply
from server.api.translate import translate
from server.api.validation import parse_chat
from server.api.whole import whole_reply
from server.generate import Generation
from server.preprocess import Prepared


@dataclass(frozen=True, slots=True)
class Chat(Route):
    """The route."""

    async def _begin(self, request: Request, engine: Engine, record: RequestRecord) -> Begun:
        prepared = await self._prepare(request, engine, record)
        reply_id = f"chatcmpl-{uuid.uuid4().hex}"
        generation, context = self._generation(reply_id, prepared, request, engine, record)
        return Begun(
            generation,
            context,
            prepared.job.stream,
            lambda: whole_reply(generation, context),
            lambda opened, note: ChatStreamReply(opened, context, note),
        )

    def _generation(
        self,
        reply_id: str,
        prepared: Prepared,
        request: Request,
        engine: Engine,
        record: RequestRecord,
    ) -> tuple[Generation, ReplyContext]:
        """The answer about to be made, and what is known of it before."""
        job = prepared.job
        record.notes |= {"reply": reply_id, "prompt_tokens": prepared.prompt_tokens}
        client = client_of(request)
        salt = client.name if client else ""
        engine_request = EngineRequest(
            reply_id, prepared.prompt, job.sampling, job.exits, salt, prepared.checked
        )
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
            calls_lead=job.calls_lead,
            image_tokens=prepared.image_tokens,
            continuous_usage=job.continuous_usage,
        )
        return Generation(engine, engine_request, record.deadline), context

    async def _prepare(self, request: Request, engine: Engine, record: RequestRecord) -> Prepared:
        raw = await read_json(request)
        model = raw.get("model")
        if isinstance(model, str):
            check_model(model, engine.info, self.settings)
        job = translate(parse_chat(raw), request.headers, engine, self.settings)
        record.notes |= {"model": job.model, "images": len(job.images), "stream": job.stream}
        return await unless_gone(request.receive, self.preprocessor.prepare(job, engine))
