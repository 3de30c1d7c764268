"""Bias and penalties against ``transformers`` and their definitions, and through a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

import dyvte
from dyvte import OptionError, SamplingParams
from dyvte.penalties import Penalties
from tests import tiny

VOCAB = 9
rows = st.lists(st.floats(-8, 8, width=32), min_size=VOCAB, max_size=VOCAB)
some_ids = st.lists(st.integers(0, VOCAB - 1), max_size=12)


@given(row=rows, prompt=some_ids, answer=some_ids, penalty=st.sampled_from([0.6, 1.3, 2.0]))
def test_repetition_is_that_of_transformers(
    row: list[float], prompt: list[int], answer: list[int], penalty: float
) -> None:
    logits = torch.tensor(row)
    penalties = Penalties(SamplingParams(repetition_penalty=penalty), [*prompt, dyvte.IMAGE])
    ids = torch.tensor([prompt + answer], dtype=torch.int64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())[0]
    assert torch.equal(penalties.apply(logits, answer), expected)


@given(row=rows, answer=some_ids, split=st.integers(0, 12))
def test_frequency_and_presence_are_openais_formula(
    row: list[float], answer: list[int], split: int
) -> None:
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=-1.25, logit_bias={2: 3.0})
    penalties = Penalties(params, prompt_ids=range(VOCAB))  # a prompt's words cost nothing
    penalties.apply(torch.tensor(row), answer[:split])  # counted once, however often it is asked
    scores = penalties.apply(torch.tensor(row), answer)
    for token, logit in enumerate(torch.tensor(row).tolist()):
        count = answer.count(token)
        expected = logit + 3.0 * (token == 2) - 0.5 * count + 1.25 * (count > 0)
        assert scores[token].item() == pytest.approx(expected, abs=1e-5)


def test_the_models_own_logits_stay_as_they_are() -> None:
    logits = torch.zeros(VOCAB)
    Penalties(SamplingParams(logit_bias={1: 5.0}), []).apply(logits, [1])
    assert torch.equal(logits, torch.zeros(VOCAB))


ADJUSTED: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.8},
    {"frequency_penalty": 2.0, "presence_penalty": 2.0},
    {"logit_bias": {7: 100.0}, "max_tokens": 3},
    {"repetition_penalty": 1.4, "temperature": 1.0, "seed": 3, "n": 2},
]


def test_every_request_of_a_batch_has_its_own(tiny_model: dyvte.Model) -> None:
    greedy: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    sampling = [SamplingParams(**greedy | each) for each in ADJUSTED]
    prompts = [tiny.prompt(seed) for seed in range(len(sampling))]
    together = dyvte.generate(tiny_model, prompts, sampling)
    for prompt, each, result in zip(prompts, sampling, together, strict=True):
        (alone,) = dyvte.generate(tiny_model, [prompt], each)
        assert alone.token_ids == result.token_ids
        assert [c.token_ids for c in alone.choices] == [c.token_ids for c in result.choices]
    assert together[3].token_ids == [7, 7, 7]
    plain = dyvte.generate(tiny_model, [prompts[2]], SamplingParams(**greedy))[0].token_ids
    assert len(set(together[2].token_ids)) > len(set(plain))


def test_logprobs_are_those_before_bias(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(
        max_tokens=1, temperature=0, logit_bias={7: 100.0}, return_logits=True, ignore_eos=True
    )
    (result,) = dyvte.generate(tiny_model, [tiny.prompt(0)], params)
    assert result.token_ids == [7]
    assert result.logits is not None
    assert result.logits[0].argmax() != 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"frequency_penalty": 2.5},
        {"presence_penalty": float("nan")},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: 101}},
        {"logit_bias": {True: 1}},
        {"logit_bias": [3]},
    ],
)
def test_what_makes_no_sense_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_a_bias_outside_the_vocabulary_is_refused(tiny_model: dyvte.Model) -> None:
    with pytest.raises(OptionError, match="logit_bias: 100000 is not in the vocabulary"):
        dyvte.generate(tiny_model, [tiny.prompt(0)], SamplingParams(logit_bias={100_000: 1.0}))
