"""Images of the next group are encoded beside the decode steps of others, and nothing uses them
before they are there. The side line is emulated: its work is done later than it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.engine.image_cache import content_key
from dyvte.streams import Lap, SideLine
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.test_stalls import Splitting

LONG = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
STALL = {"max_step_rows": 100, "max_model_len": 128}
CPU = torch.device("cpu")


class LateLap(Lap):
    """Ends when it has been asked a number of times, or when somebody waits for it."""

    def __init__(self, asked: int) -> None:
        super().__init__(CPU)
        self.left, self.waited = asked, False

    @property
    def done(self) -> bool:
        self.left -= 1
        return self.left < 0

    @property
    def seconds(self) -> float:
        self.waited |= self.left >= 0
        return 0.25


class LateLine(SideLine):
    """What the tower gives is NaN until it was ``taken``."""

    def __init__(self, asked: int) -> None:
        super().__init__(CPU)
        self.asked = asked
        self.laps: list[LateLap] = []
        self.truth: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def run(self) -> Iterator[Lap]:
        self.laps.append(LateLap(self.asked))
        yield self.laps[-1]

    def taken(self, tensors: Iterable[Tensor]) -> None:
        for each in tensors:
            if id(each) in self.truth:
                each.copy_(self.truth[id(each)][1])

    def late(self, rows: Tensor) -> Tensor:
        """``rows`` as they look before they are there."""
        nothing = torch.full_like(rows, torch.nan)
        self.truth[id(nothing)] = nothing, rows
        return nothing


class LateAdapter(Splitting):
    line: LateLine

    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        found = super().encode_images(images)
        return [[self.line.late(rows) for rows in each] for each in found]


def beside(model: dyvte.Model, asked: int, **settings: Any) -> tuple[Driver, LateLine]:
    """A stream that decodes, and an engine whose tower takes ``asked`` looks to get ready."""
    adapter = LateAdapter(model.adapter)
    driver = Driver(replace(model, adapter=adapter), small(1000, **(STALL | settings)))
    line = adapter.line = driver.core.runner.line = LateLine(asked)
    driver.add("stream", tiny.prompt(0, images=0), LONG)
    driver.step()
    return driver, line


@pytest.mark.parametrize("asked", [0, 1, 4])
def test_the_stream_goes_on_and_the_layers_wait_for_the_images(
    asked: int, tiny_model: dyvte.Model
) -> None:
    driver, line = beside(tiny_model, asked)
    layers: list[int] = []
    adapter = driver.core.runner.model
    assert isinstance(adapter, LateAdapter)
    adapter.on_layer = lambda layer, hidden, context: layers.extend(
        part.seq for part in context.batch.segments
    )
    driver.add("r", tiny.prompt(1, images=2))
    for step in range(asked):
        driver.step()
        assert len(driver.events["stream"]) == step + 2
        assert set(layers) == {0}, "nobody but the stream runs"
    driver.run()
    assert len(line.laps) == 1
    assert not line.laps[0].waited
    alone = tiny.alone(tiny_model, tiny.prompt(1, images=2), sampling=GREEDY)
    assert driver.tokens("r") == alone.token_ids
    assert driver.core.stats_of(driver.states["r"]).timings.vision == 0.25
    driver.check_empty()


def test_one_run_of_the_tower_ends_before_the_next_begins(tiny_model: dyvte.Model) -> None:
    """A budget of one image a step: three runs, each looked at until it is done."""
    driver, line = beside(tiny_model, 3, max_step_rows=1)
    driver.add("r", tiny.prompt(1, images=3))
    while not driver.events["r"]:
        begun = len(line.laps)
        unfinished = [lap for lap in line.laps if lap.left >= 0]
        driver.step()
        assert len(line.laps) - begun <= 1
        assert len(unfinished) <= 1
    assert len(line.laps) == 3
    assert not any(lap.waited for lap in line.laps)
    assert driver.core.stats_of(driver.states["r"]).timings.vision == 0.75
    alone = tiny.alone(tiny_model, tiny.prompt(1, images=3), sampling=GREEDY)
    driver.run()
    assert driver.tokens("r") == alone.token_ids


def test_when_the_stream_ends_the_group_goes_on_at_once(tiny_model: dyvte.Model) -> None:
    driver, line = beside(tiny_model, 1000)
    driver.add("r", tiny.prompt(1))
    driver.step()
    assert not driver.events["r"]
    driver.core.abort(driver.states["stream"])
    driver.step()
    assert len(driver.events["r"]) == 1
    assert line.laps[0].waited, "nobody else had anything to do"
    driver.run()
    alone = tiny.alone(tiny_model, tiny.prompt(1), sampling=GREEDY)
    assert driver.tokens("r") == alone.token_ids


def test_rows_from_the_cache_are_taken_as_well(tiny_model: dyvte.Model) -> None:
    """The request that had them encoded is gone before its rows were there."""
    driver, _ = beside(tiny_model, 2, image_cache_memory=1 << 20)
    prompt = tiny.prompt(1)
    assert prompt.images is not None
    keyed = replace(prompt, image_key=content_key(prompt.images))
    gone = driver.add("gone", keyed)
    driver.step()
    driver.core.abort(gone)
    state = driver.add("r", keyed)
    driver.run()
    assert state.image_hit
    assert driver.tokens("r") == tiny.alone(tiny_model, prompt, sampling=GREEDY).token_ids
    driver.check_empty()


def test_without_a_stream_or_a_knob_nothing_is_looked_at(tiny_model: dyvte.Model) -> None:
    """The device keeps the order; the host goes on."""
    off = ExitOptions("off")
    for streams, settings in ((False, STALL), (True, {"max_step_rows": None})):
        driver, line = beside(tiny_model, 1000, **settings)
        if not streams:
            driver.run()
        driver.add("r", tiny.prompt(1, images=2), GREEDY, off)
        driver.step()
        assert len(driver.events["r"]) == 1
        assert line.laps[0].left == 1000
        driver.run()
        alone = tiny.alone(tiny_model, tiny.prompt(1, images=2), sampling=GREEDY, exits=off)
        assert driver.tokens("r") == alone.token_ids
