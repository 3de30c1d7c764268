"""``POST /v1/completions``: text goes on, without a chat template.

Every prompt is a request of its own to the engine; their choices are answered together. Text is
plain text: characters that spell a special token stay characters. Who needs specials sends ids.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from starlette.requests import Request

from dyvte.engine.events import Engine, EngineRequest
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from server.api.account import Clock
from server.api.body import read_json
from server.api.completion_schema import CompletionRequest, prompt_form
from server.api.context import RequestRecord
from server.api.errors import bad_request
from server.api.exits import Headers, check_model, choose_exits
from server.api.form import choose_form
from server.api.reply import ReplyContext
from server.api.route import Begun, Route, fingerprint
from server.api.sampling import check_sampling, over, sampling_of
from server.api.sse import unless_gone
from server.api.text_logprobs import Echo
from server.api.text_reply import TextStreamReply, whole_text
from server.api.validation import parse_completion
from server.generate import Generation
from server.generations import Answering, Generations
from server.settings import Settings
from server.texts import PreparedTexts, TextJob

DEFAULT_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Completions(Route):
    """The route."""

    prompt_field: ClassVar[str] = "prompt"

    async def _begin(self, request: Request, engine: Engine, record: RequestRecord) -> Begun:
        asked, prepared = await self._prepare(request, engine, record)
        reply_id = f"cmpl-{uuid.uuid4().hex}"
        record.notes |= {"reply": reply_id, "prompt_tokens": prepared.prompt_tokens}
        job, options = prepared.job, asked.stream_options
        context = ReplyContext(
            id=reply_id,
            request_id=record.request_id,
            created=int(time.time()),
            model=asked.model,
            fingerprint=fingerprint(engine.info, self.version),
            num_choices=job.sampling.n * len(prepared.prompts),
            prompt_tokens=prepared.prompt_tokens,
            clock=Clock(prepared.seconds, record.seconds),
            report=(asked.dyvte.report if asked.dyvte else None) or "summary",
            logprobs=job.sampling.logprobs is not None,
            include_usage=bool(options and options.include_usage),
            token_bytes=engine.token_bytes,
            continuous_usage=bool(options and options.continuous_usage_stats),
        )
        answering = _answering(prepared, engine, reply_id, record.deadline)
        echoes = _echoes(prepared, engine) if asked.echo else ()
        return Begun(
            answering,
            context,
            bool(asked.stream),
            lambda: whole_text(answering, context, echoes),
            lambda opened, note: TextStreamReply(opened, context, note, echoes),
        )

    async def _prepare(
        self, request: Request, engine: Engine, record: RequestRecord
    ) -> tuple[CompletionRequest, PreparedTexts]:
        raw = await read_json(request)
        model = raw.get("model")
        if isinstance(model, str):
            check_model(model, engine.info, self.settings)
        asked = parse_completion(raw)
        job = _translate(asked, request.headers, engine, self.settings)
        record.notes |= {"model": asked.model, "stream": bool(asked.stream)}
        return asked, await unless_gone(
            request.receive, self.preprocessor.prepare_texts(job, engine)
        )


def _translate(
    asked: CompletionRequest, headers: Headers, engine: Engine, settings: Settings
) -> TextJob:
    """The job that ``asked`` is. Raises ApiError (400)."""
    check_sampling(asked, engine, settings)
    several = _prompts(asked)
    if len(several) * (asked.n or 1) > settings.max_n:
        raise over("prompt", "choices", settings.max_n)
    for at, ids in enumerate(several):
        path = f"prompt[{at}]" if len(several) > 1 else "prompt"
        if isinstance(ids, list) and max(ids) >= engine.info.vocab_size:
            limit = engine.info.vocab_size - 1
            raise bad_request(f"Invalid '{path}': ids go up to {limit}.", path)
    form = choose_form(asked.response_format, asked.structured_outputs)
    limit = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    sampling: SamplingParams = sampling_of(asked, form, limit, asked.logprobs)
    if asked.echo:
        sampling = replace(sampling, prompt_logprobs=asked.logprobs)
    exits: ExitOptions = choose_exits(asked, headers, engine, settings)
    return TextJob(
        prompts=tuple(several),
        sampling=sampling,
        exits=exits,
        special=asked.add_special_tokens is not False,
        form_param=form.param if form else "",
    )


def _prompts(asked: CompletionRequest) -> list[str | list[int]]:
    """One or several, as a list."""
    given: Any = asked.prompt
    several = prompt_form(given).startswith("many")
    return list(given) if several else [given]


def _echoes(prepared: PreparedTexts, engine: Engine) -> tuple[Echo, ...]:
    def echo(text: str, prompt: Prompt) -> Echo:
        nameless = {each for each in prompt.token_ids if not engine.token_bytes(each)}
        specials = {each: engine.detokenize([each]) for each in nameless}
        return Echo(text, tuple(prompt.token_ids), specials)

    return tuple(map(echo, prepared.texts, prepared.prompts))


def _answering(
    prepared: PreparedTexts, engine: Engine, reply_id: str, deadline: float | None
) -> Answering:
    """One generation a prompt; an answer with a form begins with it, not with a space."""
    job = prepared.job
    free = job.sampling.structured_output is None

    def generation(at: int, prompt: Prompt) -> Generation:
        name = f"{reply_id}-{at}" if len(prepared.prompts) > 1 else reply_id
        checked = prepared.checked[at]
        asked = EngineRequest(name, prompt, job.sampling, job.exits, checked=checked)
        return Generation(engine, asked, deadline, continues_text=free)

    each = [generation(at, prompt) for at, prompt in enumerate(prepared.prompts)]
    return each[0] if len(each) == 1 else Generations(each, job.sampling.n)
