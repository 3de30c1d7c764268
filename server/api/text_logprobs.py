"""``logprobs`` of ``/v1/completions``, in the old shape: of an answer's tokens, of a prompt's.

``text_offset`` counts characters of a choice's text, of which an echoed prompt is the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from typing_extensions import TypedDict

from dyvte.engine.events import TokenLogprobs
from server.api.reply import LOWEST_LOGPROB
from server.detokenize import ShownToken

TextOf = Callable[[int], str]


class TextLogprobs(TypedDict):
    """One entry per token; a prompt's first token has no probability and no rivals."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it is shown again; ``specials`` are the names of its special tokens."""

    text: str
    token_ids: tuple[int, ...]
    specials: Mapping[int, str] = field(default_factory=dict)


def logprobs_of(tokens: Sequence[ShownToken], offset: int, text_of: TextOf) -> TextLogprobs:
    """Those of an answer's tokens, the first of which begins at ``offset``."""
    made = _nothing()
    for token in tokens:
        offset += _add(made, token.token_id, token.logprobs, offset, text_of)
    return made


def logprobs_of_prompt(
    echo: Echo, scores: Sequence[TokenLogprobs], text_of: TextOf
) -> TextLogprobs:
    """Those of a prompt's tokens; ``scores`` begin with the second.

    What a tokenizer puts in front of the first word (a BOS, a space) need not be in the text.
    """
    made, offset, end = _nothing(), 0, len(echo.text)

    def named(token_id: int) -> str:
        return echo.specials.get(token_id) or text_of(token_id)

    for token_id, score in zip(echo.token_ids, (None, *scores), strict=True):
        length = _add(made, token_id, score, min(offset, end), named)
        if not echo.text.startswith(made["tokens"][-1], offset):
            if token_id in echo.specials:
                length = 0
            elif not offset and made["tokens"][-1].startswith(" "):
                length -= 1
        offset += length
    return made


def joined(parts: Sequence[TextLogprobs]) -> TextLogprobs:
    """The same of a whole text as of its pieces."""
    return {
        "tokens": [each for part in parts for each in part["tokens"]],
        "token_logprobs": [each for part in parts for each in part["token_logprobs"]],
        "top_logprobs": [each for part in parts for each in part["top_logprobs"]],
        "text_offset": [each for part in parts for each in part["text_offset"]],
    }


def _nothing() -> TextLogprobs:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _add(
    made: TextLogprobs, token_id: int, score: TokenLogprobs | None, offset: int, text_of: TextOf
) -> int:
    """Add a token; return how many characters it is."""
    text = text_of(token_id)
    made["tokens"].append(text)
    made["text_offset"].append(offset)
    if score is None:
        made["token_logprobs"].append(None)
        made["top_logprobs"].append(None)
    else:
        made["token_logprobs"].append(max(score.logprob, LOWEST_LOGPROB))
        made["top_logprobs"].append({text_of(i): max(p, LOWEST_LOGPROB) for i, p in score.top})
    return len(text)
