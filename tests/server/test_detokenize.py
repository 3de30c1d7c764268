"""Text comes out as it becomes certain, and is the bytes joined, whatever the pieces."""

from __future__ import annotations

import random

import pytest

from dyvte.engine.events import TokenLogprobs
from server.detokenize import Detokenizer, Piece


def byte(token: int) -> bytes:
    return bytes([token])


def pieces(data: bytes, detokenizer: Detokenizer) -> list[Piece]:
    out = []
    for token in data:
        out.append(detokenizer.push(token))
        if out[-1].stopped:
            return out
    return [*out, detokenizer.flush()]


def text(data: bytes, stop: tuple[str, ...] = (), min_tokens: int = 0) -> str:
    return "".join(piece.text for piece in pieces(data, Detokenizer(byte, stop, min_tokens)))


def test_an_unfinished_character_is_held_back() -> None:
    seen = [piece.text for piece in pieces("aé€".encode(), Detokenizer(byte))]
    assert seen == ["a", "", "é", "", "", "€", ""]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_joined_are_the_bytes_joined(seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(
        rng.choice([b"x", "é".encode(), "🙂".encode(), b"\xff", b"\xe2\x82", b"\xf0\x9f"])
        for _ in range(30)
    )
    assert text(data) == data.decode("utf-8", "replace")


def test_a_stop_string_cuts_the_text_and_ends_the_choice() -> None:
    out = pieces(b"one STOP two", Detokenizer(byte, ("STOP",)))
    assert "".join(piece.text for piece in out) == "one "
    assert out[-1].stopped
    assert len(out) == len("one STOP")


def test_what_only_began_like_a_stop_string_is_given_out() -> None:
    assert text(b"aSTaSTO", ("STOP",)) == "aSTaSTO"


def test_the_earliest_of_several_stop_strings_wins() -> None:
    assert text(b"abcde", ("e", "cd", "bcd")) == "a"


def test_stop_strings_inside_one_token_are_found() -> None:
    words = {0: b"keep<END>drop", 1: b"never"}
    detokenizer = Detokenizer(words.__getitem__, ("<END>",))
    assert detokenizer.push(0) == Piece("keep", (), stopped=True)


def test_a_stop_string_counts_after_min_tokens_only() -> None:
    assert text(b"a.b.c", (".",), min_tokens=2) == "a.b"


def test_one_leading_space_is_stripped_if_the_tokenizer_says_so() -> None:
    detokenizer = Detokenizer(byte, strip_leading_space=True)
    assert "".join(p.text for p in pieces(b"  yes no", detokenizer)) == " yes no"


def test_tokens_are_shown_with_their_text_and_not_if_it_is_cut() -> None:
    logprobs = TokenLogprobs(-1.0)
    detokenizer = Detokenizer(byte, ("ST",))
    shown = [detokenizer.push(token, logprobs).tokens for token in b"aSbST"]
    ids = [[token.token_id for token in tokens] for tokens in shown]
    assert ids == [[97], [], [83, 98], [], []]


def test_all_tokens_are_shown_when_a_choice_ends_by_itself() -> None:
    detokenizer = Detokenizer(byte)
    count = sum(len(detokenizer.push(token, TokenLogprobs(-1.0)).tokens) for token in b"a\xe2\x82")
    assert count + len(detokenizer.flush().tokens) == 3
