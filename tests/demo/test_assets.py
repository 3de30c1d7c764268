"""The shipped model: a native LLaVA folder that answers, about strangers' pictures too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

import dyvte.demo
from dyvte.demo.dataset import samples
from dyvte.demo.evaluate import evaluate
from tests.demo.strangers import CASES

ASSETS = Path(dyvte.demo.__file__).parent / "assets"


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return AutoProcessor.from_pretrained(ASSETS)


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(ASSETS, dtype=torch.float32).eval()


def _ask(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    picture: Image.Image | None,
    question: str,
) -> str:
    image = [] if picture is None else [{"type": "image"}]
    messages = [{"role": "user", "content": [*image, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = None if picture is None else [picture]
    inputs = processor(images=images, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=80)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True))


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) < 30 * 2**20


def test_most_questions_of_strangers_are_answered(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> None:
    asked = [(draw(), q, answer) for draw, questions in CASES for q, answer in questions]
    right = [_ask(model, processor, picture, q) == answer for picture, q, answer in asked]
    assert sum(right) >= 0.7 * len(right)


def test_grades_agree_with_generation(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> None:
    drawn = list(samples(8, "test"))
    right = [_ask(model, processor, s.picture, s.question) == s.answer for s in drawn]
    graded = evaluate(ASSETS, pictures=8, questions=1, exits=False)
    assert graded.accuracy["none"]["all"] == pytest.approx(sum(right) / len(right))


def test_unseen_pictures_are_answered() -> None:
    accuracy = evaluate(ASSETS, pictures=20, questions=8, exits=False).accuracy["none"]
    assert accuracy["all"] > 0.88


def test_a_prompt_without_a_picture_gets_a_sensible_reply(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> None:
    assert "picture" in _ask(model, processor, None, "Hello!")
