"""The bytes of every id, joined, are the tokenizer's own text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from dyvte.models.prompts.tokens import TokenBytes
from tests import tiny

LLAVA = Path(__file__).parents[2] / "golden" / "llava-original" / "checkpoint"
BYTELEVEL = tiny.tokenizer()
PIECES = LlamaTokenizer.from_pretrained(LLAVA)
TABLES = {"bytelevel": TokenBytes(BYTELEVEL), "sentencepiece": TokenBytes(PIECES)}
TOKENIZERS = {"bytelevel": BYTELEVEL, "sentencepiece": PIECES}
KINDS = sorted(TABLES)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=20))
def test_bytes_joined_are_the_text(kind: str, text: str) -> None:
    """SentencePiece itself cannot tell " a" from "a"."""
    ids = TOKENIZERS[kind](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    space = " " if kind == "sentencepiece" else ""
    assert TABLES[kind].text(ids) == text.removeprefix(space)


def test_a_character_of_several_tokens_is_whole_again() -> None:
    table = TABLES["bytelevel"]
    ids = BYTELEVEL("é🙂", add_special_tokens=False)["input_ids"]
    assert [len(table(i)) for i in ids] == [1] * 6
    assert b"".join(map(table, ids)).decode() == "é🙂"


@pytest.mark.parametrize("kind", KINDS)
def test_specials_have_no_bytes(kind: str) -> None:
    assert {TABLES[kind](i) for i in TOKENIZERS[kind].all_special_ids} == {b""}


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_beyond_the_tokenizer_has_no_bytes(kind: str) -> None:
    """Embedding tables are often padded: the model may choose an id without a piece."""
    assert TABLES[kind](len(TOKENIZERS[kind]) + 7) == b""


def test_only_sentencepiece_puts_a_space_before_the_first_word() -> None:
    assert TABLES["sentencepiece"].strips_leading_space
    assert not TABLES["bytelevel"].strips_leading_space
