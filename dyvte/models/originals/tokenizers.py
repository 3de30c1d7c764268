"""Tokenizers of original layouts, by the class that their settings name and without their code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from dyvte.errors import ModelError
from dyvte.models.checkpoints.opened import naming

FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "tokenizer.model",
)
_SENTENCEPIECE = ("LlamaTokenizer", "InternLM2Tokenizer")
_BYTES = ("Qwen2Tokenizer",)


def read_tokenizer(folder: Path) -> Any | None:
    """The folder's tokenizer, None if it has none.

    Raises ModelError for an unknown class, and for broken files by their names.
    """
    with naming(folder, *FILES):
        return _read(folder)


def _read(folder: Path) -> Any | None:
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    name = str(said.get("tokenizer_class", "LlamaTokenizer")).removesuffix("Fast")
    if (folder / "tokenizer.model").exists() and name in _SENTENCEPIECE:
        return LlamaTokenizer.from_pretrained(
            folder,
            add_prefix_space=_adds_space(folder),
            # What the classes of the original code do unless told otherwise; ours adds none.
            add_bos_token=said.get("add_bos_token", True),
        )
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    if (folder / "vocab.json").exists() and name in _BYTES:
        return Qwen2Tokenizer.from_pretrained(folder)
    if any((folder / name).exists() for name in ("tokenizer.model", "vocab.json")):
        known = ", ".join((*_SENTENCEPIECE, *_BYTES))
        raise ModelError(f"{folder}: tokenizer_class {name!r} is not supported ({known} are)")
    return None


def _adds_space(folder: Path) -> bool:
    """True where the SentencePiece model itself puts a space before a text."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    found: list[str] = pieces.encode("a", out_type=str)
    return found[0].startswith("▁")
