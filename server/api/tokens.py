"""``POST /tokenize`` and ``/detokenize``, in vLLM's shapes: text as ids, and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from dyvte.engine.events import Engine
from dyvte.errors import DyvteError, PromptTooLong
from dyvte.prompt import Prompt
from server.api.body import read_json
from server.api.completion_schema import TokenizeRequest
from server.api.context import record_of
from server.api.errors import bad_request, from_engine
from server.api.exits import check_model
from server.api.schema import ChatRequest
from server.api.timeout import deadline_of
from server.api.translate import translate
from server.api.validation import parse_detokenize, parse_tokenize
from server.characters import check_characters
from server.deadline import in_time
from server.lifecycle import Lifecycle
from server.preprocess import Preprocessor
from server.settings import Settings

Answer = Callable[[Request, Engine], Awaitable[Response]]


class Tokenized(TypedDict):
    """``count`` has all rows of images, ``tokens`` one -200 for each image."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    """The text of ids, specials written out."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two routes, with what they need."""

    settings: Settings
    lifecycle: Lifecycle
    preprocessor: Preprocessor

    async def tokenize(self, request: Request) -> Response:
        """Text or messages as ids."""
        return await self._in_time(request, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        """Ids as text."""
        return await self._in_time(request, self._detokenize)

    async def _in_time(self, request: Request, answer: Answer) -> Response:
        """The answer, or the 408 that is due; what is slow in a thread runs out unheard."""
        record = record_of(request)
        most = self.settings.request_timeout
        record.deadline = deadline_of(request.headers, most, record.seconds)
        engine = self.lifecycle.check_ready()
        try:
            return await in_time(answer(request, engine), record.deadline)
        except DyvteError as error:
            raise from_engine(error, record.request_id) from error

    async def _tokenize(self, request: Request, engine: Engine) -> Response:
        raw = await read_json(request)
        asked = parse_tokenize(raw)
        self._check_model(asked.model, engine)
        prompt, count = await self._prompt(asked, request, engine)
        told: Tokenized = {
            "count": count,
            "max_model_len": engine.info.max_model_len,
            "tokens": list(prompt.token_ids),
            "token_strs": None,
        }
        if asked.return_token_strs:
            texts = {token: _text(engine, token) for token in set(prompt.token_ids)}
            told["token_strs"] = [texts[token] for token in prompt.token_ids]
        return Response(orjson.dumps(told), media_type="application/json")

    async def _detokenize(self, request: Request, engine: Engine) -> Response:
        asked = parse_detokenize(await read_json(request))
        self._check_model(asked.model, engine)
        if max(asked.tokens, default=0) >= engine.info.vocab_size:
            limit = engine.info.vocab_size - 1
            raise bad_request(f"Invalid 'tokens': ids go up to {limit}.", "tokens")
        text = await self.preprocessor.run(lambda: engine.detokenize(asked.tokens))
        told: Detokenized = {"prompt": text}
        return Response(orjson.dumps(told), media_type="application/json")

    def _check_model(self, model: str | None, engine: Engine) -> None:
        if model is not None:
            check_model(model, engine.info, self.settings)

    async def _prompt(
        self, asked: TokenizeRequest, request: Request, engine: Engine
    ) -> tuple[Prompt, int]:
        if (asked.prompt is None) == (asked.messages is None):
            raise bad_request("Give one of 'prompt' and 'messages'.", "prompt")
        if asked.messages is None:
            text, special = asked.prompt or "", asked.add_special_tokens is not False
            try:
                check_characters(engine.info.max_model_len, text)
            except PromptTooLong as error:
                raise from_engine(error, record_of(request).request_id, "prompt") from error
            ids = await self.preprocessor.run(lambda: engine.tokenize(text, special))
            if not ids:
                raise bad_request("Invalid 'prompt': has no tokens.", "prompt")
            return Prompt(ids), len(ids)
        name = asked.model or self.settings.name
        chat = ChatRequest(model=name, messages=asked.messages, tools=asked.tools, max_tokens=1)
        job = translate(chat, request.headers, engine, self.settings)
        prepared = await self.preprocessor.prepare(job, engine)
        return prepared.prompt, prepared.prompt_tokens


def _text(engine: Engine, token: int) -> str:
    """A token by itself; its spaces are part of it."""
    if token < 0:
        return "<image>"
    return engine.token_bytes(token).decode(errors="replace") or engine.detokenize([token])
