"""OpenAI's chat completion and its chunks as typed dictionaries, with the ``dyvte`` account.

The published schema is made from these, and mypy holds every reply to them.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.api.account import DyvteAccount


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
