"""What ``/v1/completions`` sends: OpenAI's text completion; chunks have the same shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from server.api.account import DyvteAccount, account_of
from server.api.chat_objects import Usage
from server.api.reply import ReplyContext
from server.api.streaming import OpenedStream, StreamReply
from server.api.text_logprobs import (
    Echo,
    TextLogprobs,
    joined,
    logprobs_of,
    logprobs_of_prompt,
)
from server.generate import Delta
from server.generations import Answering


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
    """Deltas → choices of text completions. ``echoes``, one per prompt, begin their choices."""

    def __init__(
        self, answering: Answering, context: ReplyContext, echoes: tuple[Echo, ...]
    ) -> None:
        self._answering = answering
        self._context = context
        self._echoes = echoes
        self._choices = [_Choice() for _ in range(context.num_choices)]

    def write(self, delta: Delta) -> list[TextChoice]:
        """The pieces of a choice that a delta adds: the echo first, with the first of them."""
        reason = delta.finish_reason.value if delta.finish_reason else None
        offset = self._choices[delta.index].offset
        written = []
        if self._echoes and not self._choices[delta.index].pieces:
            written.append(self._echo(delta.index))
            offset = self._choices[delta.index].offset
        logprobs = logprobs_of(delta.tokens, offset, self._text) if self._wanted else None
        return [*written, self._piece(delta.index, delta.text, logprobs, reason)]

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

    @property
    def _wanted(self) -> bool:
        return self._context.logprobs

    def _echo(self, index: int) -> TextChoice:
        prompt = index * len(self._echoes) // self._context.num_choices
        echo, logprobs = self._echoes[prompt], None
        if self._wanted:
            scores = self._answering.each[prompt].prompt_logprobs
            logprobs = logprobs_of_prompt(echo, scores, self._text)
        return self._piece(index, echo.text, logprobs, None)

    def _piece(
        self, index: int, text: str, logprobs: TextLogprobs | None, reason: str | None
    ) -> TextChoice:
        choice = self._choices[index]
        made: TextChoice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        choice.offset += len(text)
        choice.pieces.append(made)
        return made

    def _text(self, token_id: int) -> str:
        return self._context.token_bytes(token_id).decode("utf-8", "replace")


async def whole_text(
    answering: Answering, context: ReplyContext, echoes: tuple[Echo, ...]
) -> bytes:
    """The body of a whole answer. Raises EngineError."""
    writer = TextWriter(answering, context, echoes)
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
        echoes: tuple[Echo, ...],
    ) -> None:
        super().__init__(opened, context, on_answer)
        self._writer = TextWriter(opened.generation, context, echoes)

    async def _chunks(self) -> AsyncGenerator[TextCompletion, None]:
        answering, context = self._opened.generation, self._context
        last: TextCompletion | None = None
        async with aclosing(self._opened.deltas()) as deltas:
            async for delta in deltas:
                *echoed, piece = self._writer.write(delta)
                for choice in echoed:
                    yield self._chunk([choice])
                chunk = self._chunk([piece])
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
        made["logprobs"] = joined(parts)
    return made


def _add_account(reply: TextCompletion, answering: Answering, context: ReplyContext) -> None:
    if answering.stats is not None and context.report != "none":
        reply["dyvte"] = account_of(answering.stats, context.clock, context.report)
