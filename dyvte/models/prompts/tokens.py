"""What bytes a token id stands for, so that text can be streamed without ever re-decoding.

Byte-level BPE (GPT-2's alphabet), SentencePiece pieces (``▁`` and ``<0xNN>``) and, for anything
else, the tokenizer's own ``decode`` of the single id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class TokenBytes:
    """``table(id)`` is the exact bytes of a token; specials have none.

    ``strips_leading_space`` is True where the first piece of a text carries a space that is not
    part of it (SentencePiece, and tokenizers whose decoder takes one off).
    """

    def __init__(self, tokenizer: Any) -> None:
        kind = _kind(tokenizer)
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._convert: Callable[[str], bytes] | None = {
            "bytelevel": _from_bytelevel,
            "sentencepiece": _from_sentencepiece,
        }.get(kind)
        self.strips_leading_space = kind == "sentencepiece" or _strips(tokenizer)
        self._of = lru_cache(maxsize=65536)(self._compute)

    def __call__(self, token_id: int) -> bytes:
        """Bytes of one token."""
        return self._of(token_id)

    def _compute(self, token_id: int) -> bytes:
        if token_id in self._special:
            return b""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return b""
        if self._convert is None or token_id in self._tokenizer.added_tokens_decoder:
            text: str = self._tokenizer.decode([token_id])
            return text.encode()
        return self._convert(piece)

    def text(self, token_ids: list[int]) -> str:
        """The text of a whole answer."""
        data = b"".join(self(token) for token in token_ids)
        if self.strips_leading_space and data.startswith(b" "):
            data = data[1:]
        return data.decode(errors="replace")


def _kind(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "sentencepiece" if hasattr(tokenizer, "sp_model") else "other"
    steps = _decoder_steps(backend)
    names = {step.get("type") for step in steps}
    if "ByteLevel" in names:
        return "bytelevel"
    if "Metaspace" in names or any("▁" in json.dumps(step, ensure_ascii=False) for step in steps):
        return "sentencepiece"
    return "other"


def _decoder_steps(backend: Any) -> list[dict[str, Any]]:
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return [decoder, *decoder.get("decoders", [])]


def _strips(tokenizer: Any) -> bool:
    """True if the tokenizer's own decoder takes a space off the beginning."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    steps = _decoder_steps(backend) if backend is not None else []
    kinds = ((step.get("type"), step.get("content"), step.get("start")) for step in steps)
    return any(kind == "Strip" and content == " " and start for kind, content, start in kinds)


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: visible bytes are themselves, others 256 + n."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return table | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _from_bytelevel(piece: str) -> bytes:
    table = _alphabet()
    if all(char in table for char in piece):
        return bytes(table[char] for char in piece)
    return piece.encode()


def _from_sentencepiece(piece: str) -> bytes:
    byte = _BYTE.match(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
