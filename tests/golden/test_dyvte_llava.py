"""The published DyVTE code's own outputs, reproduced through ``dyvte.load`` and ``generate``.

`dyvte-llava/README.md` says how the numbers were made: tiny random weights, CPU, float32, eager
attention, batch 1. Exit layers, KV lengths and ids must be exact.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dyvte
from dyvte import ExitOptions, Prompt, Result, SamplingParams

HERE = Path(__file__).parent / "dyvte-llava"
CASES = json.loads((HERE / "cases.json").read_text())
NAMES = [f"{case['case']}_{case['input']}" for case in CASES]
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, return_logits=True)
GATE_TOLERANCE, LOGIT_TOLERANCE = 2e-5, 2e-4


@cache
def model_with(gates: str) -> dyvte.Model:
    """The checkpoint with the w2 matrices of one gate set laid over its own."""
    path = HERE / "cases" / f"gates_{gates}.safetensors"
    return dyvte.load(HERE / "checkpoint", gates=path, device="cpu", dtype="float32")


def prompt_of(name: str) -> Prompt:
    tensors = load_file(HERE / f"inputs_{name}.safetensors")
    return Prompt(tensors["input_ids"][0].tolist(), {"pixel_values": tensors["pixel_values"]})


def exits_of(case: str) -> ExitOptions:
    """Each case's exit without its gates, so that all fit one batch of one model."""
    if case == "mixed":
        return ExitOptions(policy="gate", aggressiveness=0.5)
    if case == "never":
        return ExitOptions(policy="off")
    return ExitOptions(policy="fixed", exit_layer=int(case.removeprefix("exit")))


def assert_as_published(result: Result, case: dict[str, object], gates: bool) -> None:
    expected = load_file(HERE / "cases" / f"{case['case']}_{case['input']}.safetensors")
    exit_layer = case["exit_layer"] if case["exit_layer"] != -1 else None
    assert result.exit_layer == exit_layer
    assert result.kv_tokens_per_layer == case["kv_len_prefill"]
    assert result.token_ids == expected["generated_ids"].tolist()
    assert result.logits is not None
    torch.testing.assert_close(result.logits, expected["step_logits"], atol=LOGIT_TOLERANCE, rtol=0)
    if gates:
        assert result.gate_logits is not None
        torch.testing.assert_close(
            result.gate_logits, expected["gate_logits"], atol=GATE_TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case_alone(case: dict[str, object]) -> None:
    model = model_with(str(case["case"]))
    [result] = dyvte.generate(model, prompt_of(str(case["input"])), GREEDY, ExitOptions())
    assert_as_published(result, case, gates=True)


def test_all_cases_in_one_packed_batch_with_mixed_exits() -> None:
    """The published code cannot do this: it applies row 0's decision to every row."""
    prompts = [prompt_of(case["input"]) for case in CASES]
    exits = [exits_of(case["case"]) for case in CASES]
    results = dyvte.generate(model_with("mixed"), prompts, GREEDY, exits)
    for result, case in zip(results, CASES, strict=True):
        assert_as_published(result, case, gates=case["case"] == "mixed")


def test_gates_inside_the_checkpoint_are_the_mixed_set() -> None:
    model = dyvte.load(HERE / "checkpoint", dtype="float32")
    [result] = dyvte.generate(model, prompt_of("a"), GREEDY, ExitOptions())
    assert_as_published(result, CASES[0], gates=True)


def test_image_features_are_those_of_the_original() -> None:
    tensors = load_file(HERE / "inputs_a.safetensors")
    adapter = model_with("mixed").adapter
    [[rows]] = adapter.encode_images([{"pixel_values": tensors["pixel_values"]}])
    torch.testing.assert_close(rows, tensors["image_features"], atol=5e-5, rtol=0)


def test_aggressiveness_half_on_one_suffix_token_does_what_the_original_could_not() -> None:
    """One token after the image: the original's mean is over nothing and its gates are NaN."""
    whole = prompt_of("a")
    short = Prompt(whole.token_ids[:37], whole.images)
    [result] = dyvte.generate(model_with("mixed"), short, GREEDY, ExitOptions())
    assert result.gate_logits is not None
    assert result.gate_logits.isfinite().all()
    assert result.stats.gates_nan == 0
