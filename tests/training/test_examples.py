"""From a sample to what the model is run on, or the reason why it is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dyvte
from dyvte.data import Picture, Sample
from dyvte.errors import OptionError
from dyvte.training.collect import Plan
from dyvte.training.examples import answer_ids, prepare
from dyvte.training.fingerprint import model_digest
from dyvte.training.layers import choose_layers
from tests import tiny

BOTH = Plan(consistent=True, max_tokens=8)


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.new("RGB", (6, 6), "red").save(tmp_path / "red.png")
    return Picture(tmp_path / "red.png")


def sample(*parts: Mapping[str, Any], answer: str | None = "yes", line: int = 3) -> Sample:
    return Sample("a", line, 0, ({"role": "user", "content": list(parts)},), answer)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_an_answer_is_what_the_model_would_have_to_say(
    tiny_model: dyvte.Model, picture: Picture
) -> None:
    asked = sample({"type": "image", "image": picture}, text("is it?"))
    messages = asked.load()
    prompt = tiny_model.prompt(messages)
    ids = answer_ids(tiny_model, prompt, messages, "yes")
    assert ids[-1] == tiny.EOS
    assert tiny_model.text(list(ids)) == " yes"
    assert tiny_model.tokenizer is not None
    assert list(ids[:-1]) == tiny_model.tokenizer(" yes", add_special_tokens=False)["input_ids"]


def test_what_cannot_be_run_is_skipped_with_its_line(
    tiny_model: dyvte.Model, picture: Picture, tmp_path: Path
) -> None:
    (tmp_path / "half.png").write_bytes(picture.path.read_bytes()[:40] if picture.path else b"")
    shown, half = ({"type": "image", "image": p} for p in (picture, Picture(tmp_path / "half.png")))
    given = [
        sample(shown, text("fine"), line=1),
        sample(text("no image"), line=2),
        sample(shown, text("no answer"), answer=None, line=3),
        sample(half, text("broken"), line=4),
        sample(shown, text("long " * tiny.CONTEXT), line=5),
    ]
    ready = prepare(tiny_model, given, BOTH)
    assert [each.line for each in ready.samples] == [1]
    assert [skip.line for skip in ready.skipped] == [2, 3, 4, 5]
    reasons = [skip.reason for skip in ready.skipped]
    for reason, words in zip(
        reasons, ("no image", "no answer", "cannot be decoded", "exceed the context"), strict=True
    ):
        assert words in reason
    alone = prepare(tiny_model, given, Plan(paper=False, consistent=True, max_tokens=8))
    assert [each.line for each in alone.samples] == [1, 3]
    assert all(example.answer is None for example in alone.examples)


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("/2", (0, 2, 4)),
        ("1,4", (1, 4)),
        ("3-", (3, 4, 5)),
        ("1-5/3,0", (0, 1, 4)),
    ],
)
def test_layers_in_a_few_words(words: str, layers: tuple[int, ...]) -> None:
    assert choose_layers(words, 6) == layers


@pytest.mark.parametrize("words", ["", "x", "1,,2", "/0", "6", "4-2", "1-9", "-3", "2/"])
def test_layers_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(OptionError, match="layers"):
        choose_layers(words, 6)


def test_a_digest_tells_other_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    before = model_digest(tmp_path)
    assert model_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(bytes((3 << 20) - 1) + b"x")
    assert model_digest(tmp_path) != before
