"""A request that goes wrong fails alone: one error for it, the same tokens for its mates."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import dyvte
from dyvte import ExitOptions, OptionError, SamplingParams
from dyvte.errors import RequestFailed
from dyvte.exits.policy import Reading, Reads
from dyvte.params import FinishReason
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.fakes import Fault, TamperedAdapter, nan_for, raise_for, tamper

GATE = ExitOptions(policy="gate", aggressiveness=0.5)
STEPS = {"whole": 1024, "cut by layers": 8}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The engine logs each failure with its traceback; that is not what is tested."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def tampered(tiny_model: dyvte.Model) -> tuple[dyvte.Model, TamperedAdapter]:
    return tamper(tiny_model)


def started(model: dyvte.Model, rows: int = 1024) -> Driver:
    """One request that decodes (seq 0) and three that wait (seqs 1, 2, 3)."""
    driver = Driver(model, small(400, max_step_rows=rows))
    driver.add("r0", tiny.prompt(0), exits=GATE)
    driver.step()
    for index in (1, 2, 3):
        driver.add(f"r{index}", tiny.prompt(index, images=index % 3), exits=GATE)
    return driver


def assert_only(driver: Driver, failed: str, model: dyvte.Model) -> None:
    """``failed`` failed, once; the others got what they get alone; nothing is left."""
    for index in range(4):
        name = f"r{index}"
        if name == failed:
            assert len(driver.errors[name]) == 1
            assert isinstance(driver.errors[name][0], RequestFailed)
            assert driver.reason(name) is FinishReason.ERROR
        else:
            prompt = tiny.prompt(index, images=index % 3 if index else 1)
            expected = tiny.alone(model, prompt, sampling=GREEDY, exits=GATE)
            assert driver.tokens(name) == expected.token_ids
    driver.check_empty()


@pytest.mark.parametrize("rows", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("layer", range(tiny.LAYERS))
@pytest.mark.parametrize("victim", [0, 2])
def test_a_layer_that_raises_fails_its_request_alone(
    victim: int,
    layer: int,
    rows: int,
    tampered: tuple[dyvte.Model, TamperedAdapter],
    tiny_model: dyvte.Model,
) -> None:
    model, adapter = tampered
    driver = started(model, rows)
    adapter.on_layer = raise_for({victim}, {layer})
    driver.run()
    assert_only(driver, f"r{victim}", tiny_model)


@pytest.mark.parametrize("rows", STEPS.values(), ids=STEPS)
def test_a_fault_that_passes_costs_nobody_anything(
    rows: int, tampered: tuple[dyvte.Model, TamperedAdapter], tiny_model: dyvte.Model
) -> None:
    """The step is undone and run again, so half-written keys must not be there twice."""
    model, adapter = tampered
    driver = started(model, rows)
    times = iter([True, False])

    def once(*_: object) -> None:
        if next(times, False):
            raise Fault("a passing fault")

    adapter.on_layer = lambda layer, *_: once() if layer == 2 else None
    driver.run()
    assert_only(driver, "nobody", tiny_model)


def test_a_picture_that_the_tower_cannot_take_fails_its_request_alone(
    tampered: tuple[dyvte.Model, TamperedAdapter], tiny_model: dyvte.Model
) -> None:
    model, adapter = tampered
    driver = started(model)
    bad = driver.states["r2"].images

    def refuse(images: object) -> None:
        if any(each is bad for each in images):  # type: ignore[attr-defined]
            raise Fault("no such picture")

    adapter.on_images = refuse
    driver.run()
    assert_only(driver, "r2", tiny_model)


@dataclass(frozen=True)
class BrokenPolicy:
    """Raises when asked at one layer."""

    layer: int
    name: ClassVar[str] = "broken"
    reads: ClassVar[Reads] = Reads.NOTHING

    def may_fire(self, layer: int) -> bool:
        return layer == self.layer

    def decide(self, layer: int, reading: Reading) -> bool:
        raise Fault("cannot decide")


@pytest.mark.parametrize("rows", STEPS.values(), ids=STEPS)
def test_a_policy_that_raises_fails_its_request_alone(rows: int, tiny_model: dyvte.Model) -> None:
    driver = started(tiny_model, rows)
    driver.states["r2"].policy = BrokenPolicy(1)
    driver.run()
    assert_only(driver, "r2", tiny_model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("victim", [0, 2])
def test_logits_that_are_no_numbers_fail_their_request_alone(
    value: float,
    victim: int,
    tampered: tuple[dyvte.Model, TamperedAdapter],
    tiny_model: dyvte.Model,
) -> None:
    """Sampling from +inf ended in an index error, and with it the engine."""
    model, adapter = tampered
    driver = started(model)
    rows = {0: 2, 2: 1}  # of the head's output: prefills first, then decodes; r3 has passed
    calls = iter([True])

    def spoil(logits: torch.Tensor) -> torch.Tensor:
        if len(logits) == 4 and next(calls, False):
            logits = logits.clone()
            logits[rows[victim]] = value
        return logits

    adapter.on_head = spoil
    driver.run()
    assert_only(driver, f"r{victim}", tiny_model)


def test_nan_gates_keep_the_image_and_are_counted(
    tampered: tuple[dyvte.Model, TamperedAdapter], tiny_model: dyvte.Model
) -> None:
    """Spoil one text row before the last: the status is NaN, the last token's logits are not."""
    model, _ = tampered
    bank = tiny.gates()
    broken = {layer: w.clone() for layer, w in bank.w2.items()}
    broken[0][:] = torch.nan
    broken[1][:] = torch.nan
    model.adapter.gates = type(bank)(bank.w1, broken)
    driver = Driver(model)
    driver.add("r", tiny.prompt(0), exits=ExitOptions(aggressiveness=1.0, max_layer=1))
    driver.run()
    stats = driver.core.stats_of(driver.states["r"])
    assert stats.exit_layer is None
    assert stats.gates_nan == 2
    off = tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY, exits=ExitOptions(policy="off"))
    assert driver.tokens("r") == off.token_ids


def test_one_choice_that_fails_takes_its_sisters_with_it(
    tampered: tuple[dyvte.Model, TamperedAdapter], tiny_model: dyvte.Model
) -> None:
    """The sisters ran on in the same step without pages: a second error, and rows held forever."""
    model, adapter = tampered
    driver = Driver(model, small(400))
    params = SamplingParams(n=3, max_tokens=6, temperature=0, ignore_eos=True)
    driver.add("r1", tiny.prompt(1), params)
    driver.add("r0", tiny.prompt(0))
    driver.step()
    adapter.on_layer = raise_for({1}, {2})
    driver.run()
    assert len(driver.errors["r1"]) == 1
    assert driver.tokens("r0") == tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY).token_ids
    driver.check_empty()


def test_nan_in_one_choice_ends_the_request_once(
    tampered: tuple[dyvte.Model, TamperedAdapter],
) -> None:
    """A sister that was computed anew in the same step was settled after it had been dropped."""
    model, adapter = tampered
    driver = Driver(model, small(36))
    params = SamplingParams(n=2, max_tokens=30, ignore_eos=True, seed=1)
    driver.add("r", tiny.prompt(1), params)
    driver.step()
    while not driver.core.scheduler.waiting:
        driver.step()
    assert driver.core.scheduler.waiting[0].seq == 1
    adapter.on_layer = nan_for({0}, 3)
    driver.ledger.num_pages += 400
    driver.ledger._free.extend(range(36, 436))
    driver.step()
    assert len(driver.errors["r"]) == 1
    driver.run()
    driver.check_empty()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"stop_token_ids": (tiny.VOCAB,)}, "stop_token_ids"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids"),
        ({"seed": "seven"}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_settings_that_would_end_the_engine_are_refused_at_the_door(
    settings: dict[str, object], field: str, tiny_model: dyvte.Model
) -> None:
    """With min_tokens an id beyond the vocabulary was an index error in the engine's own step."""
    driver = Driver(tiny_model)
    with pytest.raises(OptionError, match=field):
        driver.add("r", tiny.prompt(0), SamplingParams(min_tokens=2, **settings))  # type: ignore[arg-type]


def test_the_user_is_told_no_internals(tampered: tuple[dyvte.Model, TamperedAdapter]) -> None:
    model, adapter = tampered
    driver = Driver(model)
    driver.add("r", tiny.prompt(0))
    adapter.on_layer = raise_for({0}, {0})
    driver.run()
    [error] = driver.errors["r"]
    assert isinstance(error, RequestFailed)
    assert error.request_id == "r"
    assert "layer" not in str(error)
