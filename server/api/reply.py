"""What goes back: how the parts of one answer become OpenAI's objects, with the ``dyvte`` account.

Filled from deltas and stats; ``orjson`` writes them. Knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from server.api.account import Clock, account_of
from server.api.chat_objects import (
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Logprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from server.detokenize import ShownToken
from server.generations import Answering

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for -inf, which JSON cannot say


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
