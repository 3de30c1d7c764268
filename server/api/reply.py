"""What goes back: OpenAI's completion and chunk objects, with the ``dyvte`` account.

Typed dictionaries and the functions that fill them from deltas and stats; ``orjson`` writes
them. Knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from server.api.account import Clock, DyvteAccount, account_of
from server.detokenize import ShownToken
from server.generations import Answering

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for -inf, which JSON cannot say


class TopLogprob(TypedDict):
    """A token that might have been chosen."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopLogprob):
    """A token that was chosen, and its rivals."""

    top_logprobs: list[TopLogprob]


class Logprobs(TypedDict):
    """``choices[].logprobs``."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(TypedDict):
    """``arguments`` is JSON text, cut where the answer was."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantReply(TypedDict):
    """``choices[].message``; without content where there are calls and no text."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class Choice(TypedDict):
    """One whole answer."""

    index: int
    message: AssistantReply
    logprobs: Logprobs | None
    finish_reason: str


class PromptDetails(TypedDict):
    """``usage.prompt_tokens_details``."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int
    audio_tokens: int


class CompletionDetails(TypedDict):
    """``usage.completion_tokens_details``."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(TypedDict):
    """``usage``; an exit never changes it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatCompletion(TypedDict):
    """The answer to a request that does not stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    dyvte: NotRequired[DyvteAccount]


class FunctionDelta(TypedDict, total=False):
    """The name once, then arguments in pieces."""

    name: str
    arguments: str


class CallDelta(TypedDict):
    """A piece of call ``index``; ``id`` and ``type`` come with the first."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class DeltaBody(TypedDict, total=False):
    """``choices[].delta``: the role first, then text or calls, at last nothing."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[CallDelta]


class ChunkChoice(TypedDict):
    """One choice's part of a chunk."""

    index: int
    delta: DeltaBody
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]
    dyvte: NotRequired[DyvteAccount]


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What all parts of one answer share, and how they are made."""

    id: str
    request_id: str
    created: int
    model: str
    fingerprint: str
    num_choices: int
    prompt_tokens: int
    clock: Clock
    report: str
    logprobs: bool
    include_usage: bool
    token_bytes: Callable[[int], bytes]
    tool_names: frozenset[str] = frozenset()
    calls_lead: bool = False
    image_tokens: int = 0
    continuous_usage: bool = False

    def chunk(self, choices: list[ChunkChoice], generation: Answering) -> ChatChunk:
        """A chunk without account; with usage wanted, every chunk says null until the last,
        or what was used so far."""
        chunk: ChatChunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        if self.continuous_usage:
            chunk["usage"] = self.usage(generation)
        elif self.include_usage:
            chunk["usage"] = None
        return chunk

    def completion(self, choices: list[Choice], generation: Answering) -> bytes:
        """The whole answer as JSON."""
        completion: ChatCompletion = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            "usage": self.usage(generation),
        }
        self.add_account(completion, generation)
        return orjson.dumps(completion)

    def usage(self, generation: Answering) -> Usage:
        """OpenAI's usage object, of a generation as it is now."""
        stats = generation.stats
        visual = stats.visual_tokens if stats else self.image_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generation.completion_tokens,
            "total_tokens": self.prompt_tokens + generation.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": stats.cached_tokens if stats else 0,
                "image_tokens": visual,
                "text_tokens": self.prompt_tokens - visual,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def add_account(self, reply: ChatCompletion | ChatChunk, generation: Answering) -> None:
        """Put the ``dyvte`` object on the last thing said, unless nobody wants it."""
        if generation.stats is not None and self.report != "none":
            reply["dyvte"] = account_of(generation.stats, self.clock, self.report)

    def logprobs_of(self, tokens: tuple[ShownToken, ...]) -> Logprobs:
        """``logprobs`` of the tokens shown."""
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: ShownToken) -> TokenLogprob:
        chosen = self._top(token.token_id, token.logprobs.logprob)
        return {**chosen, "top_logprobs": [self._top(*rival) for rival in token.logprobs.top]}

    def _top(self, token_id: int, logprob: float) -> TopLogprob:
        raw = self.token_bytes(token_id)
        text = raw.decode("utf-8", "replace")
        return {"token": text, "bytes": list(raw), "logprob": max(logprob, LOWEST_LOGPROB)}
