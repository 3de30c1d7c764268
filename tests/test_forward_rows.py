"""A layer that runs a few rows at a time is the whole layer: for tokens, exits, cuts and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyvte
from dyvte import forward as loop
from dyvte.attention import AttentionBackend, DenseAttention, SdpaAttention
from dyvte.exits.policy import Policy
from dyvte.forward import ForwardOutput
from tests import tiny
from tests.test_forward import POLICIES, Bench, prompt_of, sequences

steps = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@torch.inference_mode()
def in_pieces(bench: Bench, batch: Any, policies: Sequence[Policy], rows: list[int]) -> Any:
    """The layer loop, ``rows[i]`` rows at a time, over and over."""
    adapter = bench.model.adapter
    state = loop.start(adapter, batch, policies)
    turn = 0
    while state.layer < tiny.LAYERS:
        loop.advance_rows(adapter, state, bench.cache, bench.attention, rows[turn % len(rows)])
        turn += 1
    return loop.finish(adapter, state)


def assert_same(one: ForwardOutput, other: ForwardOutput) -> None:
    torch.testing.assert_close(one.logits, other.logits, atol=3e-5, rtol=0)
    for mine, theirs in zip(one.traces, other.traces, strict=True):
        assert mine.tokens_per_layer == theirs.tokens_per_layer
        assert mine.exit_layer == theirs.exit_layer
        assert mine.gates_asked == theirs.gates_asked
        assert mine.cuts == theirs.cuts
        assert mine.rule_flops == theirs.rule_flops


@given(several=st.lists(sequences, min_size=1, max_size=4), rows=steps, dense=st.booleans())
def test_layers_in_pieces_are_the_layers_whole(
    tiny_model: dyvte.Model, several: list[dict[str, Any]], rows: list[int], dense: bool
) -> None:
    """Every policy and pruning rule sees the whole layer; the next token reads every key."""
    attention: AttentionBackend = DenseAttention() if dense else SdpaAttention()
    policies = [POLICIES[one["policy"]] for one in several]
    prompts = [prompt_of(one) for one in several]
    whole, cut = Bench(tiny_model, attention), Bench(tiny_model, attention)
    expected = whole.run(whole.prefill(prompts), policies)
    assert_same(in_pieces(cut, cut.prefill(prompts), policies, rows), expected)
    for seq in range(len(several)):
        assert cut.cache.lengths(seq) == whole.cache.lengths(seq)
    ids = expected.logits.argmax(-1).tolist()
    after = [bench.run(bench.decode(ids)).logits for bench in (cut, whole)]
    torch.testing.assert_close(after[0], after[1], atol=3e-5, rtol=0)


@pytest.mark.parametrize("policy", ["gate", "fastv", "state", "all at once"])
@pytest.mark.parametrize("done", [1, 13, 20, 33])
@pytest.mark.parametrize("gone", range(3))
def test_a_sequence_taken_out_in_the_middle_of_a_layer_is_not_missed(
    gone: int, done: int, policy: str, tiny_model: dyvte.Model
) -> None:
    """What has run before, in and behind its rows goes on as if it had never been there."""
    prompts = [tiny.prompt(1), tiny.prompt(2), tiny.prompt(3, images=2)]
    bench = Bench(tiny_model)
    state = loop.start(tiny_model.adapter, bench.prefill(prompts), [POLICIES[policy]] * 3)
    with torch.inference_mode():
        loop.advance(tiny_model.adapter, state, bench.cache, bench.attention, 1)
        loop.advance_rows(tiny_model.adapter, state, bench.cache, bench.attention, done)
        loop.drop(state, gone)
        loop.advance(tiny_model.adapter, state, bench.cache, bench.attention, tiny.LAYERS)
        out = loop.finish(tiny_model.adapter, state)
    stay = [prompt for index, prompt in enumerate(prompts) if index != gone]
    for index, prompt in enumerate(stay):
        alone = Bench(tiny_model)
        expected = alone.run(alone.prefill([prompt]), [POLICIES[policy]])
        torch.testing.assert_close(out.logits[index], expected.logits[0], atol=3e-5, rtol=0)
        assert out.traces[index].exit_layer == expected.traces[0].exit_layer
        assert out.traces[index].cuts == expected.traces[0].cuts
