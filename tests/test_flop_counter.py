"""The closed form against what torch itself counts on a real run, term by term.

Dense attention, since ``torch.utils.flop_counter`` has no formula for the CPU's flash SDPA. The
tower runs ``transformers``' eager attention for the same reason. Left out on both sides: norms,
rotary embedding, activations, residual additions, softmax, look-ups (none is a matrix product).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import dyvte
from dyvte import ExitOptions, PruneOptions, SamplingParams
from dyvte import forward as loop
from dyvte.attention import DenseAttention
from dyvte.engine.report import request_stats
from dyvte.exits.policy import ExitPolicy, Fixed, Gate, Off, Policy
from dyvte.flops import gate_flops
from dyvte.models.families.llava import LlavaAdapter
from tests import tiny
from tests.engine.driver import Driver
from tests.test_forward import POLICIES, Bench

ALL_LAYERS = frozenset(range(tiny.LAYERS))


def counted(work: Any) -> int:
    """FLOPs of the matrix products that ``work`` runs."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    return int(counter.get_total_flops())


def layers(bench: Bench, images: Sequence[int], policies: Sequence[Policy]) -> loop.LayerLoop:
    """A loop over prompts with that many images, before its first layer."""
    prompts = [tiny.prompt(seed, images=count) for seed, count in enumerate(images)]
    batch = bench.prefill(prompts)
    with torch.inference_mode():
        return loop.start(bench.model.adapter, batch, policies)


@pytest.fixture
def bench(plain_model: dyvte.Model) -> Bench:
    return Bench(plain_model, DenseAttention())


@pytest.mark.parametrize("images", [1, 3])
def test_vision_tower_and_projector(images: int, plain_model: dyvte.Model) -> None:
    adapter = plain_model.adapter
    assert isinstance(adapter, LlavaAdapter)
    pictures = tiny.prompt(0, images=images).images
    assert pictures is not None
    vision = adapter.model.config.vision_config
    before = vision._attn_implementation
    vision._attn_implementation = "eager"
    try:
        total = counted(lambda: adapter.encode_images([pictures]))
    finally:
        vision._attn_implementation = before
    assert adapter.vision_flops(pictures) == total


@pytest.mark.parametrize(
    "policies",
    [[Off()], [Fixed(0)], [Fixed(2)], [Fixed(1), Off(), Fixed(3)]],
    ids=["no exit", "after 0", "after 2", "mixed"],
)
def test_prefill(policies: list[ExitPolicy], bench: Bench) -> None:
    adapter = bench.model.adapter
    state = layers(bench, range(1, len(policies) + 1), policies)
    total = counted(lambda: loop.advance(adapter, state, bench.cache, bench.attention, tiny.LAYERS))
    assert total == sum(adapter.decoder.prefill(trace.tokens_per_layer) for trace in state.traces)


@pytest.mark.parametrize("name", [name for name in POLICIES if "gate" not in name])
def test_pruning_rules_and_measuring_policies(name: str, bench: Bench) -> None:
    """What a rule spends itself is what torch counts beyond the layers."""
    adapter = bench.model.adapter
    state = layers(bench, [1, 2, 0], [POLICIES[name]] * 3)
    total = counted(lambda: loop.advance(adapter, state, bench.cache, bench.attention, tiny.LAYERS))
    rows = sum(adapter.decoder.prefill(trace.tokens_per_layer) for trace in state.traces)
    assert total - rows == sum(trace.rule_flops for trace in state.traces)


def test_gates(bench: Bench) -> None:
    """The same loop with gates that are asked and without: the difference is the gates."""
    adapter = bench.model.adapter
    gates = Gate(0.5, ALL_LAYERS)
    state = layers(bench, [1, 2], [gates, gates])
    asked = counted(lambda: loop.advance(adapter, state, bench.cache, bench.attention, tiny.LAYERS))
    rows = sum(adapter.decoder.prefill(trace.tokens_per_layer) for trace in state.traces)
    questions = sum(len(trace.gates_asked) for trace in state.traces)
    assert questions > 2
    assert asked - rows == questions * gate_flops(tiny.HIDDEN, 8)


@pytest.mark.parametrize("policy", [Off(), Fixed(1)], ids=["no exit", "exit"])
def test_decode_and_head(policy: ExitPolicy, bench: Bench) -> None:
    adapter, steps = bench.model.adapter, 3
    state = layers(bench, [2], [policy])
    with torch.inference_mode():
        loop.advance(adapter, state, bench.cache, bench.attention, tiny.LAYERS)
    kv = bench.cache.lengths(0)
    total = counted(lambda: [bench.run(bench.decode([9], done)) for done in range(steps)])
    assert total == adapter.decoder.decode(kv, steps) + adapter.decoder.head(steps)
    assert counted(lambda: loop.finish(adapter, state)) == adapter.decoder.head(1)


@pytest.mark.parametrize(
    "exits",
    [
        ExitOptions(policy="off"),
        ExitOptions(policy="fixed", exit_layer=1),
        ExitOptions(aggressiveness=0.9),
        ExitOptions(aggressiveness=0.6, prune=PruneOptions("pyramiddrop", ratio=0.4)),
    ],
    ids=["off", "fixed", "gate", "gate and prune"],
)
@pytest.mark.parametrize("choices", [1, 2])
def test_a_whole_request_through_the_engine(
    choices: int, exits: ExitOptions, plain_model: dyvte.Model
) -> None:
    """What is told to the user is what ran, the picture apart (its attention is SDPA's)."""
    driver = Driver(plain_model)
    driver.core.runner.attention = DenseAttention()
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, n=choices)
    state = driver.add("r", tiny.prompt(1), params, exits)
    runner = driver.core.runner
    runner.encode(runner.open(state.choices), None)
    total = counted(driver.run)
    report = request_stats(plain_model.adapter, driver.core.runner.cache, state).flops
    assert report.total - report.vision == total
