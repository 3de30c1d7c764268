"""An idle engine lets in who is all but here; it waits for nobody else."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import dyvte
from dyvte.engine import arrivals
from dyvte.engine.arrivals import GRACE_S, LONGEST_S, SHARE, Arrivals, patience
from dyvte.engine.events import EngineRequest
from tests import tiny
from tests.engine.driver import GREEDY
from tests.engine.running import Notes, all_of, running


def test_somebody_is_expected_while_prepared_and_a_moment_after() -> None:
    now = 100.0
    waited = Arrivals(clock=lambda: now)
    seen = [waited.expected]
    with waited.preparing():
        seen.append(waited.expected)
    seen.append(waited.expected)
    now += 2 * GRACE_S
    assert [*seen, waited.expected] == [False, True, True, False]


def test_who_has_been_handed_in_is_not_waited_for() -> None:
    waited = Arrivals(clock=lambda: 100.0)
    for _ in range(2):
        with waited.preparing():
            pass
    seen = [waited.expected]
    for _ in range(3):
        waited.came()
        seen.append(waited.expected)
    assert seen == [True, True, False, False]


def test_where_several_came_more_are_waited_for_a_moment() -> None:
    now = 100.0
    waited = Arrivals(clock=lambda: now)
    with waited.preparing(), waited.preparing():
        pass
    waited.came()
    waited.came()
    assert waited.expected
    now += GRACE_S
    assert not waited.expected


def test_a_preparation_that_fails_is_over_as_well() -> None:
    now = 100.0
    waited = Arrivals(clock=lambda: now)
    with pytest.raises(ValueError, match="broken"), waited.preparing():
        raise ValueError("broken")
    now += 2 * GRACE_S
    assert not waited.expected


@pytest.mark.parametrize(("work", "seconds"), [(0.0, 0.0), (1.0, SHARE), (100.0, LONGEST_S)])
def test_patience_is_a_share_of_the_work_and_bounded(work: float, seconds: float) -> None:
    assert patience(work) == seconds


async def _first_step(model: dyvte.Model, monkeypatch: pytest.MonkeyPatch, hurry: bool) -> int:
    """Prompt rows of the first step when a second request is being prepared meanwhile."""
    monkeypatch.setattr("dyvte.engine.handle.patience", lambda seconds: 0.0 if hurry else 5.0)
    monkeypatch.setattr(arrivals, "GRACE_S", 0.2)
    notes, ready = Notes(), threading.Event()
    async with running(model) as engine:
        engine.observe(notes)

        def slow(*_: Any) -> dyvte.Prompt:
            assert ready.wait(20)
            return tiny.prompt(1)

        monkeypatch.setattr(engine, "_prepare", slow)
        second = asyncio.create_task(asyncio.to_thread(engine.prepare, []))
        await asyncio.sleep(0.02)
        one = engine.submit(EngineRequest("one", tiny.prompt(0), GREEDY))
        await asyncio.sleep(0.1)
        ready.set()
        two = engine.submit(EngineRequest("two", await second, GREEDY))
        told = await asyncio.gather(all_of(one), all_of(two))
    expected = [tiny.alone(model, tiny.prompt(seed), sampling=GREEDY).token_ids for seed in (0, 1)]
    assert [[event.token_id for event in events] for events in told] == expected
    return notes.steps[0].prefill_rows


@pytest.mark.anyio
async def test_who_is_being_prepared_shares_the_first_step(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [len(tiny.native_inputs(tiny.prompt(seed))["input_ids"][0]) for seed in (0, 1)]
    assert await _first_step(tiny_model, monkeypatch, hurry=False) == sum(rows)


@pytest.mark.anyio
async def test_an_engine_without_patience_begins_with_who_is_there(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(tiny.native_inputs(tiny.prompt(0))["input_ids"][0])
    assert await _first_step(tiny_model, monkeypatch, hurry=True) == rows
