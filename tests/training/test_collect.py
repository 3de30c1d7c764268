"""Statuses and labels against the published training step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dyvte
from dyvte.training.collect import Collected, Example, collect

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def model() -> dyvte.Model:
    return dyvte.load(GOLDEN / "dyvte-llava" / "checkpoint", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def collected(model: dyvte.Model) -> list[Collected]:
    return list(collect(model.adapter, _examples(), batch=3))


def _examples() -> Iterator[Example]:
    batch = load_file(GOLDEN / "dyvte-train" / "batch_b0.safetensors")
    for row, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
        answer = (labels != -100).nonzero().flatten()
        prompt = dyvte.Prompt(
            ids[: int(answer[0])].tolist(), {"pixel_values": batch["images"][row : row + 1]}
        )
        yield Example(prompt, tuple(labels[answer].tolist()))


@pytest.mark.parametrize("layer", range(6))
def test_one_pass_gives_what_the_published_step_gives_at_each_forced_exit(
    model: dyvte.Model, collected: list[Collected], layer: int
) -> None:
    golden = load_file(GOLDEN / "dyvte-train" / f"b0_exit{layer}.safetensors")
    given = [each.given for each in collected if each.given is not None]
    status = torch.stack([each.status[layer] for each in collected])
    assert model.gates is not None
    torch.testing.assert_close(status, golden["gate_input"], atol=5e-5, rtol=0)
    torch.testing.assert_close(
        model.gates.logits(layer, status), golden["gate_logits"], atol=2e-5, rtol=0
    )
    assert [int(each.paper[layer]) for each in given] == golden["gate_labels"].tolist()
    full = torch.stack([each.loss_full for each in given])
    left = torch.stack([each.loss_exit[layer] for each in given])
    torch.testing.assert_close(full, golden["lm_loss_full"], atol=2e-5, rtol=0)
    torch.testing.assert_close(left, golden["lm_loss_masked"], atol=2e-5, rtol=0)


def test_leaving_after_the_last_layer_changes_nothing(collected: list[Collected]) -> None:
    given = [each.given for each in collected if each.given is not None]
    assert len(given) == len(collected)
    assert all(bool(each.paper[-1]) and float(each.kl[-1]) < 1e-6 for each in given)
