"""Log-probabilities of a prompt's own tokens: those that the model gives them one by one."""

from __future__ import annotations

import pytest
import torch

import dyvte
from dyvte import OptionError, Prompt, SamplingParams
from dyvte.engine import scoring
from dyvte.engine.build import EngineConfig
from tests import tiny

IDS = [tiny.BOS, 9, 10, 11, 12, 9, 13, 10]
SCORED = SamplingParams(max_tokens=0, prompt_logprobs=3)


def one_by_one(model: dyvte.Model, ids: list[int]) -> torch.Tensor:
    """``[T - 1, V]``: what the model says after each beginning of the prompt."""
    ask = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, return_logits=True)
    beginnings = [Prompt(ids[: at + 1]) for at in range(len(ids) - 1)]
    logits = [result.logits for result in dyvte.generate(model, beginnings, ask)]
    return torch.cat([each for each in logits if each is not None]).log_softmax(-1)


@pytest.mark.parametrize("max_step_rows", [1024, 4])
@pytest.mark.parametrize("rows_at_once", [128, 3])
def test_they_are_those_of_each_beginning(
    tiny_model: dyvte.Model,
    monkeypatch: pytest.MonkeyPatch,
    max_step_rows: int,
    rows_at_once: int,
) -> None:
    """Also where the prefill is cut by layers, and the head over all rows into parts."""
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", rows_at_once)
    config = EngineConfig(max_model_len=64, max_step_rows=max_step_rows)
    prompts = [Prompt(IDS[:3]), Prompt(IDS), Prompt(IDS[:1])]
    results = dyvte.generate(tiny_model, prompts, SCORED, config=config)
    for result, prompt in zip(results, prompts, strict=True):
        ids = list(prompt.token_ids)
        assert result.token_ids == []
        assert result.finish_reason == "length"
        assert result.prompt_logprobs is not None
        assert len(result.prompt_logprobs) == len(ids) - 1
        if len(ids) == 1:
            continue
        wanted = one_by_one(tiny_model, ids)
        for row, score, target in zip(wanted, result.prompt_logprobs, ids[1:], strict=True):
            assert score.logprob == pytest.approx(float(row[target]), abs=1e-5)
            assert [value for _, value in score.top] == pytest.approx(
                row.topk(3).values.tolist(), abs=1e-5
            )


def test_the_answer_and_its_account_are_otherwise_the_same(tiny_model: dyvte.Model) -> None:
    plain = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    scored = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, prompt_logprobs=0)
    first, second = dyvte.generate(tiny_model, [Prompt(IDS)] * 2, [plain, scored])
    assert first.token_ids == second.token_ids
    assert first.prompt_logprobs is None
    head = tiny_model.adapter.decoder.head(len(IDS) - 1)
    assert second.flops.head - first.flops.head == head
    assert second.flops.baseline - first.flops.baseline == head


def test_a_prompt_with_an_image_is_not_scored(tiny_model: dyvte.Model) -> None:
    with pytest.raises(OptionError, match="without images"):
        dyvte.generate(tiny_model, [tiny.prompt()], SCORED)
