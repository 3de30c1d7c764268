"""The published DyVTE + FastV code's own outputs, reproduced through ``dyvte.generate``.

`dyvte-fastv-llava/README.md` says how the numbers were made. Keep sets, exit layers, KV lengths
and ids must be exact. Checkpoint and inputs are those of `dyvte-llava`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dyvte
from dyvte import ExitOptions, Prompt, PruneOptions, Result
from tests.golden.test_dyvte_llava import GATE_TOLERANCE, GREEDY, LOGIT_TOLERANCE, prompt_of
from tests.golden.test_dyvte_llava import HERE as LLAVA

HERE = Path(__file__).parent / "dyvte-fastv-llava"
CASES = json.loads((HERE / "cases.json").read_text())
NAMES = [f"{case['case']}_{case['input']}" for case in CASES]
FASTV = PruneOptions(method="fastv", layer=2, ratio=0.5)
IMAGE_STARTS = 35


@cache
def model_with(gates: str) -> dyvte.Model:
    """The checkpoint with the w2 matrices of one gate set laid over its own."""
    path = HERE / "cases" / f"gates_{gates}.safetensors"
    return dyvte.load(LLAVA / "checkpoint", gates=path, device="cpu", dtype="float32")


def exits_of(case: str) -> ExitOptions:
    """Each case's exit without its gates, so that all fit one batch of one model."""
    if case == "mixed":
        return ExitOptions(aggressiveness=0.5, prune=FASTV)
    if case == "never":
        return ExitOptions(policy="off", prune=FASTV)
    return ExitOptions(policy="fixed", exit_layer=int(case.removeprefix("exit")), prune=FASTV)


def assert_as_published(result: Result, case: dict[str, object], gates: bool) -> None:
    expected = load_file(HERE / "cases" / f"{case['case']}_{case['input']}.safetensors")
    assert result.exit_layer == (case["exit_layer"] if case["exit_layer"] != -1 else None)
    assert result.kv_tokens_per_layer == case["kv_len_prefill"]
    if "fastv_keep_positions" in expected:
        [(layer, rows)] = result.kept_visual
        assert layer == 2
        assert [row + IMAGE_STARTS for row in rows] == expected["fastv_keep_positions"].tolist()
    else:
        assert result.kept_visual == ()
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
    prompt: Prompt = prompt_of(str(case["input"]))
    exits = ExitOptions(aggressiveness=0.5, prune=FASTV)
    [result] = dyvte.generate(model_with(str(case["case"])), prompt, GREEDY, exits)
    assert_as_published(result, case, gates=True)


def test_all_cases_in_one_packed_batch_with_mixed_exits() -> None:
    prompts = [prompt_of(case["input"]) for case in CASES]
    exits = [exits_of(case["case"]) for case in CASES]
    results = dyvte.generate(model_with("mixed"), prompts, GREEDY, exits)
    for result, case in zip(results, CASES, strict=True):
        assert_as_published(result, case, gates=case["case"] == "mixed")
