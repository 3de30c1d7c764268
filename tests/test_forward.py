"""The layer loop: a mixed batch is each alone, a removal is a mask, lengths are the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyvte
from dyvte import Prompt, PruneOptions
from dyvte import forward as loop
from dyvte.attention import AttentionBackend, DenseAttention, SdpaAttention, causal_mask
from dyvte.exits.policy import Chain, Fixed, Gate, Off, Policy
from dyvte.exits.prune.methods import BUILT_IN, prune_rule
from dyvte.exits.state import State
from dyvte.forward import ForwardOutput, forward
from dyvte.kv_cache import KVCache, RunCache
from dyvte.models.adapter import PromptLayout
from dyvte.packing import PackedBatch, Part, Segment, pack
from dyvte.pages import PageLedger
from dyvte.trace import SequenceTrace
from tests import tiny


def chain(method: str, leave: Any, **settings: Any) -> Chain:
    """A pruning method before an exit."""
    return Chain(prune_rule(PruneOptions(method, **settings), tiny.LAYERS), leave)


HALVES = {method: chain(method, Off()) for method in BUILT_IN}
POLICIES: dict[str, Policy] = {
    "off": Off(),
    "0": Fixed(0),
    "1": Fixed(1),
    "last": Fixed(tiny.LAYERS - 1),
    "gate": Gate(0.5, frozenset(range(tiny.LAYERS))),
    "gate .9 from 1": Gate(0.9, frozenset(range(tiny.LAYERS)), min_layer=1),
    "state": State(0.5, tiny.scale()),
    "state .9 from 1": State(0.9, tiny.scale("pull_question", 0.5), min_layer=1),
    **HALVES,
    "fastv, then gate": chain("fastv", Gate(0.5, frozenset(range(tiny.LAYERS))), layer=1),
    "fastv, then 2": chain("fastv", Fixed(2), layer=1, ratio=0.8),
    "pyramiddrop, then state": chain("pyramiddrop", State(0.4, tiny.scale("pull_last"))),
    "divprune, then 0": chain("divprune", Fixed(0), ratio=0.3),
    "all at once": chain("dart", Off(), layer=1, ratio=1.0),
}
sequences = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "images": st.integers(0, 2),
        "before": st.integers(0, 4),
        "after": st.integers(0, 6),
        "policy": st.sampled_from(sorted(POLICIES)),
    }
)


@dataclass
class Bench:
    """A model's adapter with an empty cache."""

    model: dyvte.Model
    attention: AttentionBackend = field(default_factory=SdpaAttention)

    def __post_init__(self) -> None:
        shape = self.model.adapter.decoder
        ledger = PageLedger(4000, 16, shape.num_layers)
        self.cache: KVCache = RunCache(
            ledger, shape.num_kv_heads, shape.head_dim, self.model.adapter.dtype
        )
        self.layouts: list[PromptLayout] = []

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> PackedBatch:
        """The prompts packed, with pages reserved for a few tokens more."""
        adapter = self.model.adapter
        self.layouts = [adapter.layout(prompt) for prompt in prompts]
        parts = []
        for seq, (prompt, layout) in enumerate(zip(prompts, self.layouts, strict=True)):
            [rows] = adapter.encode_images([prompt.images]) if prompt.images else [[]]
            self.cache.ledger.reserve(seq, layout.rows + 8)
            parts.append(adapter.part(seq, layout, rows))
        return pack(parts)

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], done: int = 0) -> PackedBatch:
        """One token of every sequence, ``done`` steps after its prefill."""
        adapter = self.model.adapter
        parts = []
        for seq, (token, layout) in enumerate(zip(ids, self.layouts, strict=True)):
            at = layout.rows + done
            hidden = adapter.embed_tokens(torch.tensor([token]))
            parts.append(Part(Segment(seq, 1), hidden, adapter.positions(layout, at, at + 1)))
        return pack(parts)

    @torch.inference_mode()
    def run(self, batch: PackedBatch, policies: Sequence[Policy] | None = None) -> ForwardOutput:
        asked = policies or [Off()] * len(batch.segments)
        return forward(self.model.adapter, batch, self.cache, asked, self.attention)


def prompt_of(one: dict[str, Any]) -> Prompt:
    return tiny.prompt(one["seed"], one["images"], one["before"], one["after"])


@given(st.lists(sequences, min_size=2, max_size=5))
def test_a_mixed_batch_is_each_alone(
    tiny_model: dyvte.Model, several: list[dict[str, Any]]
) -> None:
    """Prefill with mixed exits, then two decode steps over ragged keys."""
    policies = [POLICIES[one["policy"]] for one in several]
    together = Bench(tiny_model)
    whole = together.run(together.prefill([prompt_of(one) for one in several]), policies)
    ids = whole.logits.argmax(-1).tolist()
    later = [together.run(together.decode(ids, done)).logits for done in (0, 1)]
    for index, one in enumerate(several):
        alone = Bench(tiny_model)
        out = alone.run(alone.prefill([prompt_of(one)]), [policies[index]])
        torch.testing.assert_close(out.logits[0], whole.logits[index], atol=3e-5, rtol=0)
        assert out.traces[0].exit_layer == whole.traces[index].exit_layer
        assert out.traces[0].tokens_per_layer == whole.traces[index].tokens_per_layer
        assert out.traces[0].gates_asked == whole.traces[index].gates_asked
        assert out.traces[0].cuts == whole.traces[index].cuts
        assert out.traces[0].rule_flops == whole.traces[index].rule_flops
        for done, logits in enumerate(later):
            step = alone.run(alone.decode([ids[index]], done))
            torch.testing.assert_close(step.logits[0], logits[index], atol=3e-5, rtol=0)


@given(st.lists(sequences, min_size=1, max_size=3))
def test_lengths_of_the_cache_are_the_trace(
    tiny_model: dyvte.Model, several: list[dict[str, Any]]
) -> None:
    bench = Bench(tiny_model)
    batch = bench.prefill([prompt_of(one) for one in several])
    out = bench.run(batch, [POLICIES[one["policy"]] for one in several])
    for seq, (trace, layout) in enumerate(zip(out.traces, bench.layouts, strict=True)):
        exit_layer = tiny.LAYERS if trace.exit_layer is None else trace.exit_layer
        text = layout.rows - sum(len(span) for span in layout.leaving)
        there = [layout.rows - text] * tiny.LAYERS
        for layer, rows in trace.kept_visual(there[0]):
            there[layer:] = [len(rows)] * (tiny.LAYERS - layer)
        expected = [text + (there[i] if i <= exit_layer else 0) for i in range(tiny.LAYERS)]
        assert trace.tokens_per_layer == bench.cache.lengths(seq) == expected


class MaskedDense(DenseAttention):
    """The oracle of a removal: nothing leaves, but no row sees a visual key that is gone.

    The visual rows go on being computed; nobody looks at them.
    """

    def __init__(self, layout: PromptLayout, trace: SequenceTrace) -> None:
        visual = [row for span in layout.leaving for row in span.rows]
        self.gone: list[list[int]] = [[] for _ in range(tiny.LAYERS)]
        for layer, kept in trace.kept_visual(len(visual)):
            stay = {visual[i] for i in kept}
            self.gone[layer:] = [[row for row in visual if row not in stay]] * (tiny.LAYERS - layer)
        if trace.exit_layer is not None:
            self.gone[trace.exit_layer + 1 :] = [visual] * (tiny.LAYERS - trace.exit_layer - 1)

    def __call__(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        layer: int,
        batch: PackedBatch,
        cache: KVCache,
        scale: float,
    ) -> Tensor:
        if not self.gone[layer]:
            return super().__call__(q_THD, k_TKD, v_TKD, layer, batch, cache, scale)
        keys, values = cache.rows(0, layer)
        groups = q_THD.shape[1] // keys.shape[0]
        seen = causal_mask(q_THD.shape[0], keys.shape[1], keys.device)
        seen[:, self.gone[layer]] = False
        seen[~seen.any(1)] = True  # an image that begins the prompt: rows that nobody reads
        scores = q_THD.transpose(0, 1) @ keys.repeat_interleave(groups, 0).transpose(1, 2) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return (weights @ values.repeat_interleave(groups, 0)).transpose(0, 1)


REMOVALS = {name: policy for name, policy in POLICIES.items() if name not in ("off", "all at once")}


@pytest.mark.parametrize("policy", REMOVALS.values(), ids=REMOVALS)
@pytest.mark.parametrize(
    "prompt",
    [tiny.prompt(1), tiny.prompt(2, images=2), tiny.prompt(3, after=1), tiny.prompt(4, after=0)],
    ids=["one image", "two images", "one token after", "nothing after"],
)
def test_removal_is_masking_the_visual_keys(
    prompt: Prompt, policy: Policy, tiny_model: dyvte.Model
) -> None:
    removed = Bench(tiny_model)
    first = removed.run(removed.prefill([prompt]), [policy])
    masked = Bench(tiny_model)
    batch = masked.prefill([prompt])
    masked.attention = MaskedDense(masked.layouts[0], first.traces[0])
    oracle = masked.run(batch)
    torch.testing.assert_close(first.logits, oracle.logits, atol=3e-5, rtol=0)
    for done, token in enumerate((17, 99)):
        ours, theirs = (
            bench.run(bench.decode([token], done)).logits for bench in (removed, masked)
        )
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=0)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_exit_at_the_last_layer_changes_nothing(after: int, tiny_model: dyvte.Model) -> None:
    """A prompt that ends with its image lost the row where its next token is predicted."""
    prompt = tiny.prompt(6, after=after)
    outs = []
    for policy in (Off(), Fixed(tiny.LAYERS - 1)):
        bench = Bench(tiny_model)
        outs.append(bench.run(bench.prefill([prompt]), [policy]).logits)
    torch.testing.assert_close(outs[0], outs[1], atol=1e-6, rtol=0)


def test_an_exit_changes_what_comes_before_the_last_layer(tiny_model: dyvte.Model) -> None:
    """Else the tests above would say nothing."""
    outs = []
    for policy in (Off(), Fixed(0)):
        bench = Bench(tiny_model)
        outs.append(bench.run(bench.prefill([tiny.prompt(6)]), [policy]).logits)
    assert float((outs[0] - outs[1]).abs().max()) > 0.1


def test_rows_that_stay_keep_their_positions(tiny_model: dyvte.Model) -> None:
    """Renumbering would turn the keys' rotation; the gap stays, and decoding goes on behind it."""
    bench = Bench(tiny_model)
    batch = bench.prefill([tiny.prompt(1, before=2, after=3)])
    state = loop.start(tiny_model.adapter, batch, [Fixed(1)])
    with torch.inference_mode():
        loop.advance(tiny_model.adapter, state, bench.cache, bench.attention, 3)
    assert state.batch.positions.tolist() == [0, 1, 2, *range(3 + tiny.VISUAL, 6 + tiny.VISUAL)]
    assert state.rotary[0].shape[-2] == 6
    again = tiny_model.adapter.rotary(state.batch.hidden, state.batch.positions)
    torch.testing.assert_close(state.rotary, again, atol=0, rtol=0)
    assert bench.decode([5]).positions.tolist() == [6 + tiny.VISUAL]


@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 2, 3)])
def test_a_loop_cut_between_layers_is_the_whole_loop(
    cuts: tuple[int, ...], tiny_model: dyvte.Model
) -> None:
    prompts = [tiny.prompt(1), tiny.prompt(2, images=0), tiny.prompt(3, images=2)]
    policies = [POLICIES["gate"], Off(), Fixed(0)]
    whole = Bench(tiny_model)
    expected = whole.run(whole.prefill(prompts), policies)
    cut = Bench(tiny_model)
    state = loop.start(tiny_model.adapter, cut.prefill(prompts), policies)
    with torch.inference_mode():
        for stop in (*cuts, tiny.LAYERS):
            loop.advance(tiny_model.adapter, state, cut.cache, cut.attention, stop)
        out = loop.finish(tiny_model.adapter, state)
    assert torch.equal(out.logits, expected.logits)
    assert list(out.traces) == list(expected.traces)


@pytest.mark.parametrize("layer", range(1, tiny.LAYERS))
def test_a_sequence_taken_out_between_layers_is_not_missed(
    layer: int, tiny_model: dyvte.Model
) -> None:
    prompts = [tiny.prompt(1), tiny.prompt(2), tiny.prompt(3, images=2)]
    bench = Bench(tiny_model)
    state = loop.start(tiny_model.adapter, bench.prefill(prompts), [POLICIES["gate"]] * 3)
    with torch.inference_mode():
        loop.advance(tiny_model.adapter, state, bench.cache, bench.attention, layer)
        loop.drop(state, 1)
        loop.advance(tiny_model.adapter, state, bench.cache, bench.attention, tiny.LAYERS)
        out = loop.finish(tiny_model.adapter, state)
    for index, prompt in enumerate((prompts[0], prompts[2])):
        alone = Bench(tiny_model)
        expected = alone.run(alone.prefill([prompt]), [POLICIES["gate"]])
        torch.testing.assert_close(out.logits[index], expected.logits[0], atol=3e-5, rtol=0)
        assert out.traces[index].exit_layer == expected.traces[0].exit_layer


def test_gates_are_asked_until_the_first_that_fires(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model)
    prompts = [tiny.prompt(seed) for seed in range(6)]
    out = bench.run(bench.prefill(prompts), [POLICIES["gate"]] * 6)
    assert len({trace.exit_layer for trace in out.traces}) > 1
    for trace in out.traces:
        assert trace.exit_layer is not None
        assert trace.gates_asked == list(range(trace.exit_layer + 1))
        fired = [reading.exit > reading.keep for reading in trace.readings]
        assert fired == [False] * trace.exit_layer + [True]
    assert sum(lap.seconds for lap in out.gates) > 0


def test_a_signal_that_is_nan_keeps_the_image_and_is_counted_as_a_gate_s_is(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyvte.exits.state.read_signals", lambda *_: torch.tensor([torch.nan]))
    bench = Bench(tiny_model)
    (trace,) = bench.run(bench.prefill([tiny.prompt(0)]), [POLICIES["state"]]).traces
    assert trace.exit_layer is None
    assert trace.gates_nan == trace.gates_read == len(tiny.scale().layers) > 0
    assert not trace.readings, "they are no logits of a gate"


def test_decodes_and_text_ask_no_gates(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model)
    gate = POLICIES["gate"]
    out = bench.run(bench.prefill([tiny.prompt(1, images=0)]), [gate])
    assert out.traces[0].gates_asked == []
    out = bench.run(bench.decode([9]), [gate])
    assert out.traces[0].gates_asked == []


def test_dense_and_sdpa_give_the_same_logits(tiny_model: dyvte.Model) -> None:
    prompts = [tiny.prompt(1), tiny.prompt(2, images=2)]
    outs = []
    for attention in (DenseAttention(), SdpaAttention()):
        bench = Bench(tiny_model, attention)
        first = bench.run(bench.prefill(prompts), [Fixed(1), Off()])
        outs.append(torch.cat([first.logits, bench.run(bench.decode([7, 8])).logits]))
    torch.testing.assert_close(outs[0], outs[1], atol=3e-5, rtol=0)


def test_each_sequence_needs_its_own_policy(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model)
    with pytest.raises(ValueError, match="as many policies"):
        bench.run(bench.prefill([tiny.prompt(1), tiny.prompt(2)]), [Off()])
