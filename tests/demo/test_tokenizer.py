"""The tokenizer: every string encodes, words of the world are one token, prompts end alike."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from dyvte.demo.model import processor
from dyvte.demo.palette import COLORS
from dyvte.demo.shapes import SHAPES
from dyvte.demo.tokenizer import BOS, EOS, IMAGE, PAD, SPECIALS, word_ids
from dyvte.demo.world import SIZES, WORDS

ASK = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def test_specials_have_their_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, BOS, EOS, PAD, IMAGE]


@pytest.mark.parametrize(
    "text", ["what color is it?", "wörld €", "日本 42", "a\nb", "x  y", "1+1=2"]
)
def test_any_lower_case_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_words_of_the_world_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    words = (*COLORS, *SHAPES, *SIZES, *WORDS, "top", "bottom", "none", "nothing")
    assert len(set(word_ids(tokenizer, words))) == len(words)


def test_a_split_word_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="zyzzyva"):
        word_ids(tokenizer, ("red", "zyzzyva"))


def test_every_prompt_ends_with_two_tokens_after_the_image(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    empty = [{"role": "user", "content": [{"type": "image"}]}]
    for messages in (ASK, empty):
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        after = prompt.split("<image>")[1]
        assert prompt.endswith(" assistant:")
        assert len(tokenizer.encode(after, add_special_tokens=False)) >= 2


def test_turns_systems_and_image_urls_fit_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "Where?"},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<s>Be short.\nuser:<image> What is it? assistant: red</s>user: Where? assistant:"
    )


def test_processor_makes_one_token_per_visual_row(tokenizer: PreTrainedTokenizerFast) -> None:
    from PIL import Image

    ready = processor(tokenizer)
    prompt = ready.apply_chat_template(ASK, add_generation_prompt=True, tokenize=False)
    inputs = ready(images=[Image.new("RGB", (300, 200))], text=prompt, return_tensors="pt")
    assert (inputs["input_ids"] == IMAGE).sum() == 144
    assert inputs["pixel_values"].shape == (1, 3, 192, 192)
