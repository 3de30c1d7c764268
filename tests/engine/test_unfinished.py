"""What requests without an answer had cost: told once each, and never as part of an answer's."""

from __future__ import annotations

from dataclasses import replace

import pytest

import dyvte
from dyvte import ExitOptions
from dyvte.engine.events import EngineRequest
from dyvte.engine.stats import Ending
from dyvte.params import SamplingParams
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.running import Notes, all_of, running, until
from tests.fakes import raise_for, tamper

ENDLESS = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
EXIT = ExitOptions(policy="fixed", exit_layer=1)


def test_a_request_given_up_after_a_token_cost_what_an_answer_of_it_costs(
    tiny_model: dyvte.Model,
) -> None:
    driver = Driver(tiny_model)
    given_up = driver.add("endless", tiny.prompt(0), ENDLESS, EXIT)
    whole = driver.add("whole", tiny.prompt(0), replace(GREEDY, max_tokens=3), EXIT)
    while not whole.done:
        driver.step()
    driver.core.abort(given_up)
    told = driver.core.stats_of(whole)
    assert given_up.spent == told.flops
    assert given_up.spent.saved > 0
    assert whole.spent is None


def test_a_prefill_given_up_between_layers_cost_the_layers_that_ran(
    tiny_model: dyvte.Model,
) -> None:
    driver = Driver(tiny_model, small(400, max_step_rows=8))
    driver.add("running", tiny.prompt(1), ENDLESS, EXIT)
    while not driver.events["running"]:
        driver.step()
    state = driver.add("r", tiny.prompt(0), GREEDY, EXIT)
    ran = 0
    while not ran:
        driver.step()
        group = driver.core._stepper.prefill
        assert group is not None
        ran = group.loop.layer if group.loop else 0
    assert ran < tiny.LAYERS
    driver.core.abort(state)
    assert state.spent is not None
    rows = state.layout.rows
    shape = tiny_model.adapter.decoder
    assert state.spent.prefill == shape.prefill([rows] * ran)
    assert state.spent.vision == state.layout.vision_flops > 0
    assert state.spent.saved == state.spent.head == state.spent.decode == 0


def test_a_request_that_only_waited_cost_nothing(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model)
    state = driver.add("r", tiny.prompt(0))
    driver.core.abort(state)
    assert state.spent is not None
    assert state.spent.executed == state.spent.baseline == 0


def test_a_request_whose_step_raises_cost_the_steps_before(tiny_model: dyvte.Model) -> None:
    model, adapter = tamper(tiny_model)
    driver = Driver(model)
    state = driver.add("r", tiny.prompt(0), ENDLESS, EXIT)
    for _ in range(4):
        driver.step()
    adapter.on_layer = raise_for({state.choices[0].seq}, {2})
    driver.step()
    other = driver.add("other", tiny.prompt(0), replace(GREEDY, max_tokens=4), EXIT)
    adapter.on_layer = lambda *_: None
    driver.run()
    assert driver.errors["r"]
    assert state.spent == driver.core.stats_of(other).flops


@pytest.mark.anyio
async def test_each_is_told_once_and_an_answer_never(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        notes = Notes()
        engine.observe(notes)
        stream = engine.submit(EngineRequest("left", tiny.prompt(0), ENDLESS, EXIT))
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        done = engine.submit(EngineRequest("done", tiny.prompt(1), GREEDY, EXIT))
        await all_of(done)
        await done.aclose()
        await until(lambda: bool(notes.unfinished))
        ends = engine.submit(EngineRequest("ends", tiny.prompt(2), ENDLESS, EXIT))
        await anext(ends)
    assert [each.ending for each in notes.unfinished] == [Ending.ABORTED] * 2
    assert [each.policy for each in notes.unfinished] == ["fixed"] * 2
    assert all(each.flops.executed > 0 for each in notes.unfinished)
    assert len(notes.finished) == 1
