"""``POST /v1/responses``: a chat in OpenAI's newer words, answered in them.

The request becomes a chat request and goes its way; nothing of it is kept afterwards, so that
there is nothing to fetch, to delete or to go on from.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from dyvte.engine.events import Engine
from server.api.body import read_json
from server.api.chat import Chat
from server.api.context import RequestRecord
from server.api.errors import ApiError
from server.api.exits import check_model
from server.api.responses.names import Names
from server.api.responses.reply import Echo, echo_of
from server.api.responses.streaming import PROMPT_FIELD, ResponseStreamReply, whole_response
from server.api.responses.translate import chat_of
from server.api.route import Begun
from server.api.sse import unless_gone
from server.api.translate import translate
from server.api.validation import parse_response
from server.preprocess import Prepared


@dataclass(frozen=True, slots=True)
class Responses(Chat):
    """The route."""

    prompt_field: ClassVar[str] = PROMPT_FIELD

    async def _begin(self, request: Request, engine: Engine, record: RequestRecord) -> Begun:
        echo, prepared = await self._prepare_response(request, engine, record)
        reply_id = f"resp_{uuid.uuid4().hex}"
        generation, context = self._generation(reply_id, prepared, request, engine, record)
        return Begun(
            generation,
            context,
            prepared.job.stream,
            lambda: whole_response(generation, context, echo),
            lambda opened, note: ResponseStreamReply(opened, context, note, echo),
        )

    async def _prepare_response(
        self, request: Request, engine: Engine, record: RequestRecord
    ) -> tuple[Echo, Prepared]:
        raw = await read_json(request)
        model = raw.get("model")
        if isinstance(model, str):
            check_model(model, engine.info, self.settings)
        asked, names = parse_response(raw), Names()
        with names.told():
            chat = chat_of(asked, names, self.settings)
            job = translate(chat, request.headers, engine, self.settings)
            record.notes |= {"model": job.model, "images": len(job.images), "stream": job.stream}
            work = self.preprocessor.prepare(job, engine)
            return echo_of(asked), await unless_gone(request.receive, work)


async def not_stored(response_id: str) -> Response:
    """404: whatever is asked of a response that was given."""
    raise ApiError(
        404,
        f"Response '{response_id[:80]}' not found: this server stores no responses.",
        param="response_id",
        code="response_not_found",
    )
