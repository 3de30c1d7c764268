"""What ``/v1/completions`` sends: OpenAI's text completion; chunks have the same shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from server.api.account import DyvteAccount, account_of
from server.api.reply import LOWEST_LOGPROB, ReplyContext, Usage
from server.api.streaming import OpenedStream, StreamReply
from server.detokenize import ShownToken
from server.generate import Delta
from server.generations import Answering


class TextLogprobs(TypedDict):
    """One entry per token shown; ``text_offset`` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One answer, or a piece of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(TypedDict):
    """The answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    dyvte: NotRequired[DyvteAccount]


@dataclass(slots=True)
class _Choice:
    """A choice as it grows; ``offset`` is how many characters it has shown."""

    offset: int = 0
    pieces: list[TextChoice] = field(default_factory=list)


class TextWriter:
    """Deltas → choices of text completions. ``echoes`` are shown first: one text per prompt."""

    def __init__(self, context: ReplyContext, echoes: tuple[str, ...]) -> None:
        self._context = context
        self._echoes = echoes
        self._choices = [_Choice() for _ in range(context.num_choices)]

    def echo(self) -> list[TextChoice]:
        """The prompts, once per choice; nothing if they are not wanted."""
        if not self._echoes:
            return []
        share = self._context.num_choices // len(self._echoes)
        return [
            self._piece(at, self._echoes[at // share], (), None)
            for at in range(self._context.num_choices)
        ]

    def write(self, delta: Delta) -> TextChoice:
        """A piece of a choice."""
        reason = delta.finish_reason.value if delta.finish_reason else None
        return self._piece(delta.index, delta.text, delta.tokens, reason)

    def whole(self) -> list[TextChoice]:
        """All pieces of each choice as one."""
        return [_joined(choice.pieces) for choice in self._choices]

    def completion(self, choices: list[TextChoice]) -> TextCompletion:
        """A completion or chunk, without usage."""
        context = self._context
        return {
            "id": context.id,
            "object": "text_completion",
            "created": context.created,
            "model": context.model,
            "system_fingerprint": context.fingerprint,
            "choices": choices,
        }

    def _piece(
        self, index: int, text: str, tokens: tuple[ShownToken, ...], reason: str | None
    ) -> TextChoice:
        choice = self._choices[index]
        logprobs = self._logprobs(tokens, choice.offset) if self._context.logprobs else None
        made: TextChoice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        choice.offset += len(text)
        choice.pieces.append(made)
        return made

    def _logprobs(self, tokens: tuple[ShownToken, ...], offset: int) -> TextLogprobs:
        made: TextLogprobs = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            text = self._text(token.token_id)
            top = {self._text(rival): max(p, LOWEST_LOGPROB) for rival, p in token.logprobs.top}
            made["tokens"].append(text)
            made["token_logprobs"].append(max(token.logprobs.logprob, LOWEST_LOGPROB))
            made["top_logprobs"].append(top)
            made["text_offset"].append(offset)
            offset += len(text)
        return made

    def _text(self, token_id: int) -> str:
        return self._context.token_bytes(token_id).decode("utf-8", "replace")


async def whole_text(answering: Answering, context: ReplyContext, echoes: tuple[str, ...]) -> bytes:
    """The body of a whole answer. Raises EngineError."""
    writer = TextWriter(context, echoes)
    writer.echo()
    async with aclosing(answering.deltas()) as deltas:
        async for step in deltas:
            for delta in step:
                writer.write(delta)
    completion = writer.completion(writer.whole())
    completion["usage"] = context.usage(answering)
    _add_account(completion, answering, context)
    return orjson.dumps(completion)


class TextStreamReply(StreamReply):
    """The events of one text completion, or of several prompts' together."""

    def __init__(
        self,
        opened: OpenedStream,
        context: ReplyContext,
        on_answer: Callable[[Answering], None],
        echoes: tuple[str, ...],
    ) -> None:
        super().__init__(opened, context, on_answer)
        self._writer = TextWriter(context, echoes)

    async def _chunks(self) -> AsyncGenerator[TextCompletion, None]:
        answering, context = self._opened.generation, self._context
        for choice in self._writer.echo():
            yield self._chunk([choice])
        last: TextCompletion | None = None
        async with aclosing(self._opened.deltas()) as deltas:
            async for delta in deltas:
                chunk = self._chunk([self._writer.write(delta)])
                if last is not None:
                    yield last
                    last = None
                if len(answering.finish_reasons) == context.num_choices and delta.finish_reason:
                    last = chunk  # it may be the last of all, which carries the account
                else:
                    yield chunk
        assert last is not None, "a generation that ends has finished its last choice"
        self._on_answer(answering)
        if context.include_usage:
            yield last
            last = self._writer.completion([])
            last["usage"] = context.usage(answering)
        _add_account(last, answering, context)
        yield last

    def _chunk(self, choices: list[TextChoice]) -> TextCompletion:
        chunk = self._writer.completion(choices)
        if self._context.continuous_usage:
            chunk["usage"] = self._context.usage(self._opened.generation)
        elif self._context.include_usage:
            chunk["usage"] = None
        return chunk


def _joined(pieces: list[TextChoice]) -> TextChoice:
    made: TextChoice = {**pieces[-1], "text": "".join(piece["text"] for piece in pieces)}
    parts = [piece["logprobs"] for piece in pieces if piece["logprobs"] is not None]
    if parts:
        made["logprobs"] = {
            "tokens": [each for part in parts for each in part["tokens"]],
            "token_logprobs": [each for part in parts for each in part["token_logprobs"]],
            "top_logprobs": [each for part in parts for each in part["top_logprobs"]],
            "text_offset": [each for part in parts for each in part["text_offset"]],
        }
    return made


def _add_account(reply: TextCompletion, answering: Answering, context: ReplyContext) -> None:
    if answering.stats is not None and context.report != "none":
        reply["dyvte"] = account_of(answering.stats, context.clock, context.report)
