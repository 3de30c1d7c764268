"""A model's vocabulary as llguidance takes it: the bytes of every token, as they are streamed.

Built from the same table that turns ids into text, so that what a grammar allowed is what a
reader gets, whatever kind the tokenizer is. Specials have no bytes and are never allowed; the
model's end tokens are, where a grammar may end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer

from dyvte.errors import OptionError
from dyvte.model import Model
from dyvte.structured import FIELD

JSON_BYTES = frozenset(b'{}[]:,"\\ -.0123456789aeflnrstu')


class Vocabulary:
    """Tokens of one model; ``missing`` are the bytes that no token stands for alone.

    ``spaces`` are the ids of a lone space, ``leading_space`` says if one may begin an answer.
    """

    def __init__(self, model: Model) -> None:
        """Raises OptionError where a grammar cannot be kept: no tokenizer or no end token."""
        table = model.token_bytes
        if table is None:
            raise OptionError(FIELD, "this model has no tokenizer")
        size, eos = model.adapter.decoder.vocab_size, model.adapter.eos_token_ids
        if not eos:
            raise OptionError(FIELD, "this model has no end token")
        self.size = size
        self.leading_space = table.strips_leading_space
        tokens = [b"" if token in eos else table(token) for token in range(size)]
        self.spaces = frozenset(token for token, text in enumerate(tokens) if text == b" ")
        self.missing = frozenset(range(256)) - {each[0] for each in tokens if len(each) == 1}
        wrapper = _Wrapper(model, tokens, min(eos))
        self.tokenizer = LLTokenizer(wrapper, n_vocab=size, eos_token=sorted(eos))  # type: ignore[arg-type]


class _Wrapper:
    """What ``LLTokenizer`` reads of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, model: Model, tokens: Sequence[bytes], eos: int) -> None:
        tokenizer: Any = model.tokenizer
        self.tokens = tokens
        self.eos_token_id = eos
        self.bos_token_id = getattr(tokenizer, "bos_token_id", None)
        specials = getattr(tokenizer, "all_special_ids", ())
        self.special_token_ids = [token for token in specials if token < len(tokens)]
        self._tokenizer = tokenizer
        self._ids: dict[bytes, int] = {}
        for token, text in enumerate(tokens):
            if text:
                self._ids.setdefault(text, token)
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids of text that a grammar forces: the tokenizer's own where they spell just that.

        A tokenizer may change what it reads (lower case, a space in front); then the longest
        tokens that fit are taken.
        """
        data = text.encode() if isinstance(text, str) else text
        try:
            plain = data.decode()
            ids: list[int] = self._tokenizer(plain, add_special_tokens=False)["input_ids"]
        except UnicodeDecodeError:
            ids = []
        if b"".join(self.tokens[token] for token in ids) == data:
            return ids
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            stop = min(len(data), at + self._longest)
            while stop > at and data[at:stop] not in self._ids:
                stop -= 1
            if stop == at:
                break  # a byte without a token: the rest cannot be spelled
            ids.append(self._ids[data[at:stop]])
            at = stop
        return ids
