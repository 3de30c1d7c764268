"""How much text is looked at: none that could not fit, because tokenising costs far more than it.

A tokenizer makes about a kilobyte of every token and lets nobody interrupt it, so that a body of
text alone, within ``--max-body``, took minutes and gigabytes to be found too long.
"""

from __future__ import annotations

from collections.abc import Mapping

from dyvte.errors import PromptTooLong

PER_TOKEN = 32  # more than prose, code or base64 spend on a token, by far


def check_characters(max_model_len: int, *texts: object) -> None:
    """Raises PromptTooLong if ``texts`` hold more than that many tokens ever spell."""
    count, limit = characters(texts), max_model_len * PER_TOKEN
    if count > limit:
        raise PromptTooLong(
            f"the prompt has {count} characters; this model's context of {max_model_len} tokens "
            f"takes {limit} at most"
        )


def characters(value: object) -> int:
    """Of all strings in ``value``, which may be nested; keys count as well, other types do not."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(characters(key) + characters(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(characters, value))
    return 0
