"""``dyvte.generate``: one call, many prompts, each its own settings and its own account."""

from __future__ import annotations

import pytest
import torch

import dyvte
from dyvte import (
    ExitOptions,
    FinishReason,
    OptionError,
    Prompt,
    PromptError,
    PruneOptions,
    SamplingParams,
)
from dyvte.attention import DenseAttention, SdpaAttention
from tests import tiny

OFF = ExitOptions(policy="off")
GREEDY = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)


def test_settings_are_one_for_all_or_one_for_each(tiny_model: dyvte.Model) -> None:
    prompts = [tiny.prompt(seed) for seed in range(3)]
    exits: list[ExitOptions | dict[str, object]] = [
        OFF,
        ExitOptions(policy="fixed", exit_layer=1),
        {"policy": "gate", "aggressiveness": 0.5, "max_layer": 2},
    ]
    counts = (1, 2, 3)
    sampling = [
        SamplingParams(max_tokens=count, temperature=0, ignore_eos=True) for count in counts
    ]
    results = dyvte.generate(tiny_model, prompts, sampling, exits)
    assert [len(result.token_ids) for result in results] == [1, 2, 3]
    assert [result.exit_layer for result in results[:2]] == [None, 1]
    for prompt, each, wish, result in zip(prompts, sampling, exits, results, strict=True):
        one = tiny.alone(tiny_model, prompt, sampling=each, exits=wish)
        assert one.token_ids == result.token_ids
    same = dyvte.generate(tiny_model, prompts, GREEDY, OFF)
    assert [result.exit_layer for result in same] == [None] * 3


def test_a_count_that_does_not_match_is_named(tiny_model: dyvte.Model) -> None:
    with pytest.raises(ValueError, match="exits: 2 given for 1 prompts"):
        dyvte.generate(tiny_model, [tiny.prompt(0)], GREEDY, [OFF, OFF])


def test_no_prompts_are_no_results(tiny_model: dyvte.Model) -> None:
    assert dyvte.generate(tiny_model, []) == []


def test_a_result_tells_rows_keys_gates_and_logits(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True, return_logits=True)
    exits = ExitOptions(aggressiveness=0.5)
    result = tiny.alone(tiny_model, tiny.prompt(1), sampling=params, exits=exits)
    rows = 8 + tiny.VISUAL
    assert result.exit_layer is not None
    seen = result.exit_layer + 1
    assert result.tokens_per_layer == [rows] * seen + [8] * (tiny.LAYERS - seen)
    assert result.kv_tokens_per_layer == result.tokens_per_layer
    assert result.gate_logits is not None
    assert result.gate_logits.shape == (seen, 2)
    assert result.gate_logits.dtype is torch.float32
    assert result.logits is not None
    assert result.logits.shape == (5, tiny.VOCAB)
    assert result.logits.argmax(-1).tolist() == result.token_ids
    assert result.finish_reason is FinishReason.LENGTH


def test_what_was_not_asked_is_none(tiny_model: dyvte.Model) -> None:
    result = tiny.alone(tiny_model, tiny.prompt(1), sampling=GREEDY, exits=OFF)
    assert result.logits is None
    assert result.gate_logits is None


def test_text_only_asks_nothing_and_saves_nothing(tiny_model: dyvte.Model) -> None:
    result = tiny.alone(tiny_model, tiny.prompt(1, images=0), sampling=GREEDY)
    assert result.exit_layer is None
    assert result.gate_logits is None
    assert result.flops.saved == 0
    assert result.flops.vision == 0


def test_saved_is_what_the_exit_left_out_less_what_it_cost(tiny_model: dyvte.Model) -> None:
    prompt = tiny.prompt(1)
    full = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=OFF).flops
    early = tiny.alone(
        tiny_model, prompt, sampling=GREEDY, exits=ExitOptions(policy="fixed", exit_layer=0)
    ).flops
    late = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=ExitOptions(aggressiveness=0.0001))
    assert early.baseline == full.total == full.baseline
    assert early.saved == full.prefill + full.decode - early.prefill - early.decode > 0
    assert late.exit_layer is None
    assert late.flops.saved == -late.flops.gates < 0


def test_text_is_the_tokenizers_and_ends_before_its_stop_string(tiny_model: dyvte.Model) -> None:
    whole = tiny.alone(tiny_model, tiny.prompt(2), sampling=GREEDY, exits=OFF)
    assert whole.text == tiny.tokenizer().decode(whole.token_ids)
    stop = next(char for char in whole.text if char.isascii())
    at = whole.text.index(stop)
    params = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True, stop=(stop,))
    cut = tiny.alone(tiny_model, tiny.prompt(2), sampling=params, exits=OFF)
    assert cut.text == whole.text[:at]
    assert cut.finish_reason is FinishReason.STOP


def test_choices_beyond_the_first_hang_on_it(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(n=3, seed=4, max_tokens=6, ignore_eos=True)
    result = tiny.alone(tiny_model, tiny.prompt(2), sampling=params, exits=OFF)
    assert len(result.choices) == 2
    again = tiny.alone(tiny_model, tiny.prompt(2), sampling=params, exits=OFF)
    assert [c.token_ids for c in again.choices] == [c.token_ids for c in result.choices]
    assert len({tuple(c.token_ids) for c in [result, *result.choices]}) == 3


def test_a_seed_is_repeatable_whatever_else_runs(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(seed=3, max_tokens=6, ignore_eos=True, top_p=0.9)
    one = tiny.alone(tiny_model, tiny.prompt(0), sampling=params, exits=OFF)
    many = dyvte.generate(
        tiny_model,
        [tiny.prompt(seed) for seed in (3, 0, 1)],
        [SamplingParams(max_tokens=9), params, GREEDY],
        OFF,
    )
    assert many[1].token_ids == one.token_ids


@pytest.mark.parametrize("attention", [DenseAttention(), SdpaAttention()], ids=lambda a: a.name)
def test_the_attention_may_be_chosen(
    attention: DenseAttention | SdpaAttention, tiny_model: dyvte.Model
) -> None:
    usual = tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY)
    chosen = tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY, attention=attention)
    assert chosen.token_ids == usual.token_ids


@pytest.mark.parametrize(
    ("exits", "field"),
    [
        ({"policy": "fixed", "exit_layer": tiny.LAYERS}, "exit_layer"),
        ({"layer": 3}, "layer"),
        ({"prune": {"method": "random"}}, "prune.method"),
        ({"prune": {"method": "fastv", "share": 1}}, "prune.share"),
    ],
)
def test_wishes_that_cannot_be_granted_name_their_field(
    exits: dict[str, object], field: str, tiny_model: dyvte.Model
) -> None:
    with pytest.raises(OptionError) as caught:
        dyvte.generate(tiny_model, tiny.prompt(0), GREEDY, exits)
    assert caught.value.field == field
    assert PruneOptions.of({"method": "fastv"}) == PruneOptions("fastv")


def test_one_bad_prompt_is_told_before_anything_runs(tiny_model: dyvte.Model) -> None:
    with pytest.raises(PromptError, match="vocabulary"):
        dyvte.generate(tiny_model, [tiny.prompt(0), Prompt([tiny.VOCAB])], GREEDY)


@pytest.mark.parametrize(
    ("setting", "value"), [("device", "abacus"), ("dtype", "int3"), ("device", "cuda")]
)
def test_a_device_or_type_that_is_not_there_is_refused(
    setting: str, value: str, tiny_folder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError) as caught:
        dyvte.load(str(tiny_folder), **{setting: value})  # type: ignore[arg-type]
    assert caught.value.field == setting


def test_sixteen_bit_weights_answer_too(tiny_folder: object) -> None:
    model = dyvte.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    result = tiny.alone(model, tiny.prompt(0), sampling=GREEDY)
    assert len(result.token_ids) == 5
    assert result.gate_logits is not None
    assert result.gate_logits.dtype is torch.float32
