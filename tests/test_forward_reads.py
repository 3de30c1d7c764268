"""Of the last layer only what predicts a token need be computed: nothing that is read changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyvte
from dyvte import cpu
from dyvte import forward as loop
from dyvte.attention import AttentionBackend, DenseAttention, RunAttention, SdpaAttention
from dyvte.exits.policy import Fixed, Gate, Off, Policy
from dyvte.exits.state import State
from dyvte.forward import ForwardOutput
from dyvte.models.fused import FusedLayer
from dyvte.packing import PackedBatch
from tests import tiny
from tests.test_forward import POLICIES, Bench, prompt_of, sequences
from tests.test_forward_rows import assert_same

BACKENDS: dict[str, Callable[[], AttentionBackend]] = {
    "run": RunAttention,
    "sdpa": SdpaAttention,
    "dense": DenseAttention,
}
WHOLE = 10_000


@torch.inference_mode()
def last_rows_only(
    bench: Bench, batch: PackedBatch, policies: Sequence[Policy], rows: Sequence[int] = (WHOLE,)
) -> ForwardOutput:
    """The layer loop, ``rows[i]`` rows at a time, where nobody reads other rows."""
    adapter = bench.model.adapter
    state = loop.start(adapter, batch, policies, read_all=False)
    turn = 0
    while state.layer < tiny.LAYERS:
        loop.advance_rows(adapter, state, bench.cache, bench.attention, rows[turn % len(rows)])
        turn += 1
    return loop.finish(adapter, state)


def assert_same_keys(one: Bench, other: Bench, seq: int) -> None:
    assert one.cache.lengths(seq) == other.cache.lengths(seq)
    for layer in range(tiny.LAYERS):
        for mine, theirs in zip(
            one.cache.rows(seq, layer), other.cache.rows(seq, layer), strict=True
        ):
            torch.testing.assert_close(mine, theirs, atol=3e-5, rtol=0)


@given(
    several=st.lists(sequences, min_size=1, max_size=4),
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    backend=st.sampled_from(sorted(BACKENDS)),
)
def test_what_is_read_is_that_of_all_rows(
    tiny_model: dyvte.Model, several: list[dict[str, Any]], rows: list[int], backend: str
) -> None:
    """Tokens, exits, cuts and every layer's keys: in a batch, whole and in pieces, then a step."""
    policies = [POLICIES[one["policy"]] for one in several]
    prompts = [prompt_of(one) for one in several]
    full, whole, cut = (Bench(tiny_model, BACKENDS[backend]()) for _ in range(3))
    expected = full.run(full.prefill(prompts), policies)
    assert_same(last_rows_only(whole, whole.prefill(prompts), policies), expected)
    assert_same(last_rows_only(cut, cut.prefill(prompts), policies, rows), expected)
    for seq in range(len(several)):
        assert_same_keys(whole, full, seq)
        assert_same_keys(cut, full, seq)
    ids = expected.logits.argmax(-1).tolist()
    after = [bench.run(bench.decode(ids)).logits for bench in (full, whole, cut)]
    torch.testing.assert_close(after[1], after[0], atol=3e-5, rtol=0)
    torch.testing.assert_close(after[2], after[0], atol=3e-5, rtol=0)


@given(several=st.lists(sequences, min_size=2, max_size=4), rows=st.integers(2, 40))
def test_a_row_that_is_read_has_the_bits_of_alone(
    tiny_model: dyvte.Model, several: list[dict[str, Any]], rows: int
) -> None:
    policies: list[Policy] = [Fixed(1) if one["images"] else Off() for one in several]
    prompts = [prompt_of(one) for one in several]
    together = Bench(tiny_model, RunAttention())
    logits = last_rows_only(together, together.prefill(prompts), policies).logits
    for index, prompt in enumerate(prompts):
        alone = Bench(tiny_model, RunAttention())
        own = last_rows_only(alone, alone.prefill([prompt]), [policies[index]])
        assert torch.equal(own.logits[0], logits[index])


class Seen:
    """Counts the rows whose MLP runs."""

    def __init__(self, layer: FusedLayer) -> None:
        self.rows: list[int] = []
        self._run = layer._mlp
        layer._mlp = self  # type: ignore[method-assign]

    def __call__(self, rows_Td: Tensor, out: Tensor | None = None) -> Tensor:
        self.rows.append(len(rows_Td))
        return self._run(rows_Td, out)


LAST = tiny.LAYERS - 1


@torch.inference_mode()
def test_aborts_in_the_last_layer_leave_the_others_as_they_are(tiny_model: dyvte.Model) -> None:
    """Though it was begun for one that looks at all rows there, and who is gone."""
    adapter, bench = tiny_model.adapter, Bench(tiny_model, RunAttention())
    looks = State(0.5, tiny.scale(), min_layer=LAST)
    prompts = [tiny.prompt(1), tiny.prompt(2, images=2), tiny.prompt(3, images=1)]
    batch = bench.prefill(prompts)
    first, second, third = batch.lengths
    state = loop.start(adapter, batch, [Off(), looks, Off()], read_all=False)
    loop.advance(adapter, state, bench.cache, bench.attention, LAST)
    loop.advance_rows(adapter, state, bench.cache, bench.attention, first + second // 2)
    loop.drop(state, 1)
    loop.advance_rows(adapter, state, bench.cache, bench.attention, third // 2)
    loop.drop(state, 0)
    loop.advance(adapter, state, bench.cache, bench.attention, tiny.LAYERS)
    alone = Bench(tiny_model, RunAttention())
    expected = last_rows_only(alone, alone.prefill(prompts[2:]), [Off()])
    assert_same(loop.finish(adapter, state), expected)


@pytest.mark.parametrize(
    ("policy", "all_rows"),
    [
        (Off(), False),
        (Fixed(1), False),
        (Fixed(LAST), False),
        (POLICIES["fastv"], False),
        (Gate(0.5, frozenset({LAST})), True),
        (State(0.5, tiny.scale(), min_layer=LAST), True),
    ],
)
def test_only_rows_that_are_read_cross_the_last_layer(
    policy: Policy, all_rows: bool, tiny_folder: Any
) -> None:
    """What a gate or a measure after the last layer looks at runs; an exit there reads nothing."""
    model = dyvte.load(tiny_folder, device="cpu", dtype="float32")
    adapter: Any = model.adapter
    counted = Seen(adapter._fused[-1])
    bench = Bench(model, RunAttention())
    batch = bench.prefill([tiny.prompt(1), tiny.prompt(2, images=2)])
    last_rows_only(bench, batch, [policy] * 2)
    assert counted.rows == [len(batch.hidden) if all_rows else 2]


@pytest.mark.parametrize(
    ("dtype", "weights", "close"), [("bfloat16", "auto", 0.05), ("float32", "int8", 1e-4)]
)
def test_other_forms_of_weights_read_the_same(
    dtype: str, weights: str, close: float, tiny_folder: Any
) -> None:
    """Whether queries, keys and values are one product or three."""
    if weights == "int8" and not cpu.computes_int8():
        pytest.skip("int8 needs a CPU with VNNI or AMX")
    model = dyvte.load(tiny_folder, device="cpu", dtype=dtype, weights=weights)
    full, only = Bench(model, RunAttention()), Bench(model, RunAttention())
    prompts = [tiny.prompt(1), tiny.prompt(2, images=2)]
    policies: list[Policy] = [Fixed(1), Off()]
    expected = full.run(full.prefill(prompts), policies)
    found = last_rows_only(only, only.prefill(prompts), policies, (7, 30))
    torch.testing.assert_close(found.logits, expected.logits, atol=close, rtol=close)
