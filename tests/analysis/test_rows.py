"""Streamed rows are the matrices of ``transformers``, and no more than a block is ever held."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dyvte
from dyvte.analysis.rows import BYTES_PER_WEIGHT, AttentionRows, WatchedAttention, block_rows
from dyvte.attention import SdpaAttention
from dyvte.packing import PackedBatch, Segment
from dyvte.params import ExitOptions, SamplingParams
from tests import tiny
from tests.analysis.watching import Everything, matrices, size_of, watched

HEADS = 4


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("rows_a_block", [1, 3, 1000])
def test_streamed_rows_are_the_eager_matrices(
    tiny_model: dyvte.Model, reference: Any, images: int, rows_a_block: int
) -> None:
    prompt = tiny.prompt(3, images=images)
    n = size_of(tiny_model, prompt)
    kept = Everything(n)
    watched(tiny_model, prompt, kept, budget=rows_a_block * BYTES_PER_WEIGHT * HEADS * n)
    expected = matrices(reference, prompt)
    assert sorted(kept.layers) == list(range(tiny.LAYERS))
    for layer, matrix in enumerate(expected):
        torch.testing.assert_close(kept.layers[layer], matrix, rtol=1e-5, atol=1e-6)
    assert max(rows for _, rows in kept.blocks) == min(n, rows_a_block)


def test_rows_that_left_are_missing_above_the_exit_and_the_others_keep_their_places(
    tiny_model: dyvte.Model,
) -> None:
    prompt = tiny.prompt(1)
    layout = tiny_model.adapter.layout(prompt)
    seen: dict[int, list[int]] = {}

    class Places:
        def take(self, rows: AttentionRows) -> None:
            assert rows.weights.shape == (len(rows.queries), len(rows.keys))
            torch.testing.assert_close(
                rows.weights.sum(-1) >= 0.999, torch.ones(len(rows.queries), dtype=torch.bool)
            )
            seen[rows.layer] = rows.keys.tolist()

    watched(tiny_model, prompt, Places(), exits=ExitOptions(policy="fixed", exit_layer=1))
    text = [row for row in range(layout.rows) if layout.token_ids[row] != dyvte.IMAGE]
    assert seen == {0: [*range(layout.rows)], 1: [*range(layout.rows)], 2: text, 3: text}


def test_watching_changes_no_answer(tiny_model: dyvte.Model) -> None:
    """But the order of sums in the last layer, of which other rows are seen as well."""
    prompt, params = tiny.prompt(2), SamplingParams(max_tokens=6, temperature=0, return_logits=True)
    exits = ExitOptions(aggressiveness=0.5)
    backend = WatchedAttention(SdpaAttention(), [Everything(size_of(tiny_model, prompt) + 6)])
    plain = tiny.alone(tiny_model, prompt, sampling=params, exits=exits, attention=SdpaAttention())
    seen = tiny.alone(tiny_model, prompt, sampling=params, exits=exits, attention=backend)
    assert seen.token_ids == plain.token_ids
    assert seen.logits is not None
    assert plain.logits is not None
    torch.testing.assert_close(seen.logits, plain.logits, atol=1e-5, rtol=0)


def test_several_sequences_at_once_are_refused(tiny_model: dyvte.Model) -> None:
    backend = WatchedAttention(SdpaAttention(), [])
    q = torch.zeros(2, 1, 4)
    batch = PackedBatch((Segment(0, 1), Segment(1, 1)), torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="one sequence"):
        backend(q, q, q, 0, batch, None, 1.0)  # type: ignore[arg-type]


def test_the_budget_bounds_a_block() -> None:
    assert block_rows(32, 700, 2**25) == 2**25 // (BYTES_PER_WEIGHT * 32 * 700)
    assert block_rows(32, 10**9, 2**20) == 1


def test_memory_stays_within_the_budget_and_far_below_a_matrix(tmp_path: Any) -> None:
    """Measured by what torch allocates: a matrix of all heads would be 64 MiB."""
    heads, n, size = 16, 1024, 8
    budget = 2**20
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, heads, size, generator=draw) for _ in range(2))
    batch = PackedBatch((Segment(0, n, prefill=True),), torch.zeros(n, 1), torch.arange(n))

    class Nothing:
        def take(self, rows: AttentionRows) -> None:
            del rows

    def idle(*_: Any) -> torch.Tensor:
        return q

    idle.name = "idle"  # type: ignore[attr-defined]
    backend = WatchedAttention(idle, [Nothing()], budget)  # type: ignore[arg-type]
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        backend(q, k, k, 0, batch, None, 1.0)  # type: ignore[arg-type]
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    operands = 2 * q.numel() * 4  # keys and queries may be copied into another order
    assert 0 < peak <= budget + operands
    assert peak < heads * n * n * 4 / 20
