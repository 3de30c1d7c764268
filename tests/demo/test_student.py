"""Training's view of the model is the model: lanes against `transformers`, exits against masks."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from dyvte.demo.lanes import (
    IGNORE,
    LANE,
    TURNS,
    Lanes,
    Packer,
    conversation_rows,
    prompt_prefix,
    turn_rows,
)
from dyvte.demo.model import LAYERS, build
from dyvte.demo.question import Question
from dyvte.demo.questions import ask, without_picture
from dyvte.demo.student import graded, text_states, visual_rows, word_table
from dyvte.demo.tokenizer import EOS
from dyvte.demo.world import sample_scene


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    return build(len(tokenizer), seed=3).eval()


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    rng = random.Random(2)
    return [*(ask(sample_scene(7), rng) for _ in range(7)), without_picture(rng)]


@pytest.fixture(scope="module")
def lanes(tokenizer: PreTrainedTokenizerFast, asked: list[Question]) -> Lanes:
    packer = Packer(tokenizer, 1, 3, prompt_prefix(tokenizer))
    assert all(packer.add(0, question) for question in asked)
    return packer.lanes()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_visual_rows_are_the_models_own(
    model: LlavaForConditionalGeneration, pixels: Tensor
) -> None:
    with torch.inference_mode():
        theirs = model.model.get_image_features(
            pixels, vision_feature_layer=-1, vision_feature_select_strategy="default"
        ).pooler_output[0]
        torch.testing.assert_close(visual_rows(model, pixels)[0], theirs)


def test_lanes_give_the_logits_of_each_question_alone(
    model: LlavaForConditionalGeneration, lanes: Lanes, pixels: Tensor
) -> None:
    with torch.inference_mode():
        states = text_states(model, visual_rows(model, pixels), lanes, LAYERS)
        for _, lane, number, kind in lanes.kinds:
            rows = lanes.segment[0, lane] == number
            prefix = lanes.prefix if kind != "blind" else lanes.prefix[lanes.prefix != 4]
            ids = torch.cat([prefix, lanes.tokens[0, lane][rows]])[None]
            seen = {"pixel_values": pixels} if kind != "blind" else {}
            logits = model(input_ids=ids, **seen).logits[0, len(prefix) :]
            mine = states[0, lane][rows] @ word_table(model).T
            torch.testing.assert_close(mine, logits, atol=2e-4, rtol=1e-4)


def test_an_exit_is_the_same_as_not_seeing_the_picture_above_it(
    model: LlavaForConditionalGeneration, lanes: Lanes, pixels: Tensor
) -> None:
    with torch.inference_mode():
        rows = visual_rows(model, pixels)
        full, cut = (text_states(model, rows, lanes, LAYERS, e) for e in (None, 2))
        last = text_states(model, rows, lanes, LAYERS, LAYERS - 1)
    torch.testing.assert_close(full, last)
    sees = (lanes.segment >= 0) & ~lanes.blind
    assert not torch.allclose(full[sees], cut[sees], atol=1e-3)
    torch.testing.assert_close(full[lanes.blind], cut[lanes.blind], atol=1e-5, rtol=1e-4)


def test_rows_of_a_question_predict_its_answer(
    tokenizer: PreTrainedTokenizerFast, asked: list[Question]
) -> None:
    for question in asked:
        rows = turn_rows(tokenizer, question)
        targets = [row.target for row in rows if row.target != IGNORE]
        assert targets[-1] == EOS
        assert tokenizer.decode(targets[:-1]) == question.answer
        assert len(rows) <= LANE


def test_grades_follow_the_most_likely_tokens(lanes: Lanes) -> None:
    targets = lanes.targets[lanes.targets != IGNORE]
    perfect = torch.nn.functional.one_hot(targets, 1400).float()
    assert all(right for _, right in graded(lanes, perfect))
    perfect[-1] = 0
    assert sum(right for _, right in graded(lanes, perfect)) == len(lanes.kinds) - 1


def test_turns_are_laid_as_the_chat_template_writes_them(
    tokenizer: PreTrainedTokenizerFast, asked: list[Question]
) -> None:
    turns = [question for question in asked if question.needs_picture][:3]
    messages: list[dict[str, str]] = []
    for question in turns:
        messages.append({"role": "user", "content": question.text})
        messages.append({"role": "assistant", "content": question.answer})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    theirs = tokenizer.encode(rendered, add_special_tokens=False)
    packer = Packer(tokenizer, 1, 1, prompt_prefix(tokenizer))
    head = tokenizer.encode("<s>user:", add_special_tokens=False)
    rows = conversation_rows(tokenizer, tuple(turns))
    assert head + [row.token for row in rows] + [EOS] == theirs
    assert packer.add(0, *turns[:2])
    assert [kind for *_, kind in packer.lanes().kinds] == [TURNS]
