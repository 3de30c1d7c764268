"""Prompts that arrive hold up running streams by no more than the budget, and nobody's answer
changes by it: counted in work, image by image and row by row, at the model's own seam."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.attention import StepContext
from dyvte.engine.build import EngineConfig
from dyvte.engine.image_cache import content_key
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.fakes import Fault, TamperedAdapter, tamper

OFF, EARLY = ExitOptions("off"), ExitOptions("fixed", exit_layer=0)
GATE = ExitOptions("gate", aggressiveness=0.5)
LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)


class Splitting(TamperedAdapter):
    """Hands pictures over one by one, as the adapter behind it does."""

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return self.inner.split_images(images)

    def join_images(self, images: Mapping[str, Any], rows: Sequence[list[Tensor]]) -> list[Tensor]:
        return self.inner.join_images(images, rows)


class Watched(Driver):
    """A driver that counts what each step asks of the model beside its decodes."""

    def __init__(self, model: dyvte.Model, config: EngineConfig) -> None:
        self.adapter = Splitting(model.adapter)
        super().__init__(replace(model, adapter=self.adapter), config)
        self.adapter.on_layer, self.adapter.on_images = self._layer, self._images
        self.work = self.images = 0

    def _layer(self, layer: int, hidden: Tensor, context: StepContext) -> None:
        shape, cache = self.adapter.decoder, self.core.runner.cache
        parts = [part for part in context.batch.segments if part.prefill]
        if parts:
            self.work += shape.linear(max(sum(part.rows for part in parts), self.least))
        for part in parts:
            self.work += shape.attention(part.rows, cache.length(part.seq, layer) + part.rows)

    def _images(self, images: Sequence[Mapping[str, Any]]) -> None:
        self.images += len(images)
        self.work += sum(self.adapter.vision_flops(each) for each in images)

    @property
    def least(self) -> int:
        return self.core.runner.pace.least

    def step(self) -> None:
        self.work = self.images = 0
        super().step()

    def smallest(self, rows: int) -> int:
        """The work of a piece that runs however small the budget is."""
        shape = self.adapter.decoder
        piece = shape.linear(self.least) + shape.attention(self.least, rows)
        picture = self.adapter.vision_flops({"pixel_values": [0]})
        return max(piece, picture)


arrivals = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 12),
            "images": st.integers(0, 5),
            "exits": st.sampled_from([OFF, EARLY, GATE]),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15)
@given(several=arrivals, rows=st.sampled_from([1, 3, 8, 24]))
def test_the_work_between_two_tokens_never_exceeds_the_budget(
    several: list[dict[str, Any]], rows: int, tiny_model: dyvte.Model
) -> None:
    """Or the smallest piece, where that alone exceeds it; and the stream speaks in every step."""
    driver = Watched(tiny_model, small(2000, max_step_rows=rows, max_model_len=256))
    driver.add("stream", tiny.prompt(0), SamplingParams(max_tokens=200, ignore_eos=True))
    driver.step()
    budget = driver.core.runner.pace.budget()
    assert budget is not None
    step = 0
    while step <= 12 or driver.core.scheduler.waiting or driver.core.scheduler.group:
        for index, one in enumerate(several):
            if one["at"] == step:
                prompt = tiny.prompt(index, images=one["images"])
                driver.add(f"r{index}", prompt, GREEDY, one["exits"])
        said = len(driver.events["stream"])
        driver.step()
        step += 1
        assert len(driver.events["stream"]) == said + 1 or driver.states["stream"].done
        longest = sum(state.layout.rows for state in driver.states.values())
        assert driver.work <= max(budget, driver.smallest(longest))
        if driver.states["stream"].done:
            break
    driver.run(2000)
    for index, one in enumerate(several):
        if f"r{index}" in driver.states:
            prompt = tiny.prompt(index, images=one["images"])
            alone = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=one["exits"])
            assert driver.tokens(f"r{index}") == alone.token_ids
            assert driver.core.stats_of(driver.states[f"r{index}"]).exit_layer == alone.exit_layer
    driver.check_empty()


def beside_a_stream(model: dyvte.Model, **settings: Any) -> Watched:
    driver = Watched(model, small(1000, max_step_rows=1, max_model_len=128, **settings))
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    return driver


def test_images_are_encoded_one_by_one_while_others_decode(tiny_model: dyvte.Model) -> None:
    driver = beside_a_stream(tiny_model)
    driver.add("r", tiny.prompt(1, images=3))
    seen: list[int] = []
    while len(seen) < 4:
        driver.step()
        seen.append(driver.images)
    assert seen == [1, 1, 1, 0]
    driver.run()
    alone = tiny.alone(tiny_model, tiny.prompt(1, images=3), sampling=GREEDY)
    assert driver.tokens("r") == alone.token_ids


def test_with_nobody_decoding_everything_runs_whole(tiny_model: dyvte.Model) -> None:
    driver = Watched(tiny_model, small(1000, max_step_rows=1))
    for index in range(3):
        driver.add(f"r{index}", tiny.prompt(index, images=2))
    driver.step()
    assert driver.images == 6
    assert all(len(driver.events[f"r{index}"]) == 1 for index in range(3))


def test_without_a_stall_a_prompt_joins_the_decodes_whole(tiny_model: dyvte.Model) -> None:
    driver = Watched(tiny_model, small(1000, max_model_len=128))
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    driver.add("r", tiny.prompt(1, images=3))
    driver.step()
    assert len(driver.events["r"]) == 1


def test_a_measured_pace_cuts_like_a_fixed_one_and_answers_alike(tiny_model: dyvte.Model) -> None:
    """A stall so short that only the smallest pieces fit."""
    driver = Watched(tiny_model, small(1000, max_stall_ms=1e-6, max_model_len=128))
    driver.core.runner.pace.least = 8
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    driver.add("r", tiny.prompt(1, images=2), exits=GATE)
    steps = 0
    while not driver.events["r"]:
        driver.step()
        steps += 1
    assert steps > tiny.LAYERS
    driver.run()
    alone = tiny.alone(tiny_model, tiny.prompt(1, images=2), sampling=GREEDY, exits=GATE)
    assert driver.tokens("r") == alone.token_ids
    driver.check_empty()


def keyed(seed: int, images: int) -> dyvte.Prompt:
    prompt = tiny.prompt(seed, images=images)
    assert prompt.images is not None
    return replace(prompt, image_key=content_key(prompt.images))


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("leaves", ["first", "twin"])
def test_who_leaves_among_twins_takes_nothing_from_the_other(
    leaves: str, steps: int, tiny_model: dyvte.Model
) -> None:
    """Two requests show the same three images; each image is encoded once, whoever goes."""
    driver = beside_a_stream(tiny_model, image_cache_memory=1 << 20)
    states = {name: driver.add(name, keyed(1, 3)) for name in ("first", "twin")}
    encoded = 0
    for _ in range(steps):
        driver.step()
        encoded += driver.images
    driver.core.abort(states.pop(leaves))
    while not driver.events[next(iter(states))]:
        driver.step()
        encoded += driver.images
    driver.run()
    ((name, stays),) = states.items()
    assert encoded == 3
    assert driver.tokens(name) == tiny.alone(tiny_model, keyed(1, 3), sampling=GREEDY).token_ids
    paid_by_the_other = name == "twin" and steps >= 3
    assert stays.image_hit is paid_by_the_other
    driver.add("later", keyed(1, 3))
    driver.run()
    assert driver.states["later"].image_hit
    driver.check_empty()


@pytest.mark.parametrize("steps", [1, 2])
def test_images_that_only_the_aborted_showed_are_not_encoded(
    steps: int, tiny_model: dyvte.Model
) -> None:
    driver = beside_a_stream(tiny_model)
    gone = driver.add("gone", tiny.prompt(1, images=5))
    for _ in range(steps):
        driver.step()
    driver.core.abort(gone)
    while not driver.states["stream"].done:
        driver.step()
        assert driver.images == 0
    driver.check_empty()


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("bad", range(3))
def test_one_bad_image_of_several_fails_its_request_alone(
    bad: int, tiny_model: dyvte.Model
) -> None:
    driver = beside_a_stream(tiny_model)
    prompts = [tiny.prompt(seed, images=3) for seed in (1, 2)]
    assert prompts[0].images is not None
    spoiled = prompts[0].images["pixel_values"][bad]

    def refuse(images: Sequence[Mapping[str, Any]]) -> None:
        if any(bool((each["pixel_values"][0] == spoiled).all()) for each in images):
            raise Fault("no such picture")

    driver.adapter.on_images = refuse
    for name, prompt in zip(("bad", "good"), prompts, strict=True):
        driver.add(name, prompt)
    driver.run()
    assert len(driver.errors["bad"]) == 1
    alone = tiny.alone(tiny_model, prompts[1], sampling=GREEDY)
    assert driver.tokens("good") == alone.token_ids
    driver.check_empty()


def test_a_fault_of_a_decode_does_not_send_the_group_back(tiny_model: dyvte.Model) -> None:
    """They are two forwards when the group is cut; the group's layers had run."""
    model, adapter = tamper(tiny_model)
    driver = Driver(model, small(1000, max_step_rows=4, max_model_len=128))
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    driver.add("r", tiny.prompt(1))
    driver.step()
    driver.step()
    before = driver.core._stepper.prefill
    assert before is not None
    logging.disable(logging.CRITICAL)
    times = iter([True, False])

    def once(layer: int, hidden: Tensor, context: StepContext) -> None:
        if context.batch.segments[0].seq == 0 and next(times, False):
            raise Fault("a passing fault")

    adapter.on_layer = once
    driver.step()
    logging.disable(logging.NOTSET)
    assert driver.core._stepper.prefill is before
    driver.run()
    for index, name in enumerate(("stream", "r")):
        params = driver.states[name].sampling
        alone = tiny.alone(tiny_model, tiny.prompt(index), sampling=params)
        assert driver.tokens(name) == alone.token_ids
    driver.check_empty()


@pytest.mark.parametrize("wide", [60, 70, 80, 90, 100])
def test_rows_that_come_back_where_a_gate_stays_silent_do_not_exceed_the_budget(
    wide: int, tiny_model: dyvte.Model
) -> None:
    """The image left after layer 0 once; the next gate may fire there as well, and does not."""
    silent = ExitOptions("gate", aggressiveness=1e-12)
    asked = [keyed(1, 3), keyed(1, 3)]
    driver = Watched(tiny_model, small(1000, max_model_len=128, prefix_cache_memory=1 << 20))
    driver.add("first", asked[0], GREEDY, EARLY)
    driver.run()
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    shape, pace = driver.adapter.decoder, driver.core.runner.pace
    rows = driver.states["first"].layout.rows
    pace.fixed, pace.least = wide * tiny.LAYERS * shape.layer(rows, rows) // 100, 4
    state = driver.add("deeper", asked[1], GREEDY, silent)
    while not driver.events["deeper"]:
        driver.step()
        assert driver.work <= pace.fixed
    assert state.prefix_hit
    driver.run()
    alone = tiny.alone(tiny_model, asked[1], sampling=GREEDY, exits=silent)
    assert driver.tokens("deeper") == alone.token_ids
    assert driver.core.stats_of(state).exit_layer is None
