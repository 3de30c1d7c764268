"""How often the host waits for the device: once a layer that is asked, once a step, never else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import ExitOptions, PruneOptions, SamplingParams
from dyvte.attention import AttentionBackend, SdpaAttention
from dyvte.engine.build import EngineConfig
from dyvte.exits.gate import GateBank
from dyvte.exits.policy import Gate, Policy
from dyvte.exits.prune.methods import BUILT_IN, prune_rule
from dyvte.exits.state import State
from dyvte.forward import forward
from dyvte.kv_cache import PagedCache
from dyvte.packing import pack
from dyvte.varlen import VarlenAttention
from tests import tiny
from tests.emulated_device import EmulatedDevice
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.reuse import asking, warm
from tests.paged_kernel import paged_kernel

OFF, EARLY = ExitOptions("off"), ExitOptions("fixed", exit_layer=1)
SILENT = ExitOptions("gate", aggressiveness=1e-12)
LONG = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    return EmulatedDevice(monkeypatch)


class Emulated(Driver):
    """A driver whose model and pool lie on the emulated device; ``reads`` has one per step."""

    def __init__(
        self, device: EmulatedDevice, model: dyvte.Model, config: EngineConfig, pages: bool = True
    ) -> None:
        attend = VarlenAttention(device.kernel(paged_kernel))
        backend: AttentionBackend = attend if pages else SdpaAttention()
        super().__init__(model, config, backend)
        self.device = device
        self.reads: list[int] = []
        adapter = model.adapter
        weights = adapter.model  # type: ignore[attr-defined]
        device.own([*weights.parameters(), *weights.buffers()])
        if adapter.gates is not None:
            device.own([*adapter.gates.w1.values(), *adapter.gates.w2.values()])
        cache = self.core.runner.cache
        if isinstance(cache, PagedCache):
            device.own([cache.k_pool, cache.v_pool])

    def step(self) -> None:
        before = self.device.reads
        with self.device:
            emissions = self.core.step()
        for each in emissions:
            assert each.error is None
            self.events[each.state.request.request_id].append(each.event)
        self.reads.append(self.device.reads - before)
        assert not self.device.faults, self.device.faults


HIDDEN: dict[str, Callable[[Tensor], object]] = {
    "tolist": lambda own: own.tolist(),
    "item": lambda own: own[0].item(),
    "int": lambda own: int(own[0]),
    "bool": lambda own: bool(own[0]),
    "cpu": lambda own: own.cpu(),
    "numpy": lambda own: own.numpy(),
    "an index of no dimension": lambda own: own[own.long().argmax()],
    "a boolean mask": lambda own: own[own > 1],
    "nonzero": lambda own: own.nonzero(),
    "a list as index": lambda own: own[[0, 1]],
    "a tensor made on the spot": lambda own: own + torch.tensor([1.0, 2.0, 3.0]),
    "a write": lambda own: own.copy_(torch.tensor([1.0, 2.0, 3.0])),
    "a read into the host": lambda own: torch.tensor([0.0, 0.0, 0.0]).copy_(own),
}


@pytest.mark.parametrize("wait", HIDDEN)
def test_a_hidden_wait_is_found(wait: str, device: EmulatedDevice) -> None:
    (own,) = device.own([torch.tensor([1.0, 2.0, 3.0])])
    with device:
        HIDDEN[wait](own + 1)
    assert device.faults


def test_work_that_stays_on_the_device_is_none(device: EmulatedDevice) -> None:
    (own,) = device.own([torch.tensor([1.0, 2.0, 3.0])])
    with device:
        rows = torch.arange(2)
        (own * 2.0)[1:].index_select(0, rows).masked_fill(rows > 0, -torch.inf).softmax(-1).sort()
    assert device.faults == []


@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("exits", [OFF, EARLY])
def test_a_prefill_without_gates_and_every_decode_wait_once(
    exits: ExitOptions, pages: bool, device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    driver = Emulated(device, tiny_model, small(200), pages)
    for index in range(3):
        driver.add(f"r{index}", tiny.prompt(index, images=index), GREEDY, exits)
    driver.run()
    assert driver.reads == [1] * 7, "the text has passed the others"


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 3), (2,)])
def test_gates_wait_once_a_layer_however_many_ask(
    layers: tuple[int, ...], device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    bank = tiny.gates()
    own = GateBank({i: bank.w1[i] for i in layers}, {i: bank.w2[i] for i in layers})
    adapter = tiny_model.adapter
    before, adapter.gates = adapter.gates, own
    try:
        driver = Emulated(device, tiny_model, small(200))
        for index in range(3):
            driver.add(f"r{index}", tiny.prompt(index, images=2), GREEDY, SILENT)
        driver.run()
    finally:
        adapter.gates = before
    assert driver.reads == [len(layers) + 1] + [1] * 5


def test_gates_and_what_policies_measure_come_in_one_read(
    device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    adapter, layers = tiny_model.adapter, frozenset(range(tiny.LAYERS))
    driver = Emulated(device, tiny_model, small(400))
    cache = driver.core.runner.cache
    policies: list[Policy] = [Gate(1e-12, layers), State(1e-12, tiny.scale()), Gate(1e-12, layers)]
    with device, torch.inference_mode():
        parts = []
        for seq, prompt in enumerate(map(tiny.prompt, range(3))):
            layout = adapter.layout(prompt)
            cache.ledger.reserve(seq, layout.rows)
            (rows,) = adapter.encode_images([prompt.images or {}])
            parts.append(adapter.part(seq, layout, rows))
        out = forward(adapter, pack(parts), cache, policies, driver.core.runner.attention)
    assert [trace.gates_read for trace in out.traces] == [tiny.LAYERS] * 3
    assert (device.reads, device.faults) == (tiny.LAYERS, [])


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 1},
        {"temperature": 0, "min_tokens": 3},
        {"temperature": 0, "logit_bias": {7: 2.0}, "repetition_penalty": 1.2},
        {"temperature": 1.0, "frequency_penalty": 0.4, "presence_penalty": 0.2, "seed": 2},
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.7, "logprobs": 0, "seed": 3},
    ],
)
def test_however_tokens_are_chosen_a_step_waits_once(
    sampling: dict[str, object], device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    driver = Emulated(device, tiny_model, small(200))
    params = SamplingParams(max_tokens=5, **sampling)  # type: ignore[arg-type]
    for index in range(2):
        driver.add(f"r{index}", tiny.prompt(index), params, OFF)
    driver.run()
    assert set(driver.reads) == {1}


def test_forked_choices_wait_once_more_when_they_begin(
    device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    driver = Emulated(device, tiny_model, small(400))
    driver.add("r", tiny.prompt(1), replace(GREEDY, n=3), OFF)
    driver.run()
    assert driver.reads == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("method", sorted(BUILT_IN))
def test_pruning_waits_once_a_stage_however_many_prune(
    method: str, device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    options = PruneOptions(method)
    exits = ExitOptions("off", prune=options)
    driver = Emulated(device, tiny_model, small(400))
    for index in range(3):
        driver.add(f"r{index}", tiny.prompt(index, images=2), GREEDY, exits)
    driver.run()
    stages = len(prune_rule(options, tiny.LAYERS).stages)
    assert driver.reads == [stages + 1] + [1] * 5


@pytest.mark.parametrize("second", [OFF, EARLY])
def test_a_second_question_waits_no_oftener_whatever_comes_back(
    second: ExitOptions, device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    driver = Emulated(device, tiny_model, warm())
    for question, exits in enumerate((ExitOptions("fixed", exit_layer=0), second)):
        state = driver.add(f"{question}", asking(0, question, images=2), GREEDY, exits)
        driver.run()
    assert state.prefix_hit
    assert set(driver.reads) == {1}


def test_a_cut_prefill_waits_for_its_gates_and_the_stream_beside_it_only(
    device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    config = small(1000, max_step_rows=4, max_model_len=128)
    driver = Emulated(device, tiny_model, config)
    driver.add("stream", tiny.prompt(0, images=0), LONG, OFF)
    driver.step()
    driver.add("r", tiny.prompt(1, images=3), GREEDY, SILENT)
    while not driver.events["r"]:
        driver.step()
    assert len(driver.reads) > 2 * tiny.LAYERS, "it was cut"
    assert sum(each - 1 for each in driver.reads) == tiny.LAYERS


def test_prefill_rows_and_decode_rows_go_in_one_call_a_layer(
    device: EmulatedDevice, tiny_model: dyvte.Model
) -> None:
    """Two sequences decode with different exits, a third is in prefill with its image.

    Of the last layer its newest row alone is read.
    """
    calls: list[list[int]] = []

    def noted(query: Tensor, *args: object, **settings: object) -> Tensor:
        starts = args[2]
        assert isinstance(starts, Tensor)
        calls.append(starts.diff().tolist())
        return paged_kernel(query, *args, **settings)  # type: ignore[arg-type]

    driver = Driver(tiny_model, small(400), VarlenAttention(noted))
    for index, exits in enumerate((EARLY, OFF)):
        driver.add(f"r{index}", tiny.prompt(index), GREEDY, exits)
    driver.step()
    driver.add("late", tiny.prompt(2), GREEDY, EARLY)
    calls.clear()
    driver.step()
    rows = driver.states["late"].layout.rows
    text = rows - tiny.VISUAL
    assert calls == [[rows, 1, 1]] * 2 + [[text, 1, 1], [1, 1, 1]]
    driver.run()
    for index, exits in enumerate((EARLY, OFF)):
        alone = tiny.alone(tiny_model, tiny.prompt(index), sampling=GREEDY, exits=exits)
        assert driver.tokens(f"r{index}") == alone.token_ids
