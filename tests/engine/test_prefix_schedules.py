"""Aborts, faults, preemptions and any schedule: with rows taken over the answers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from tests import tiny
from tests.engine.driver import GREEDY
from tests.engine.reuse import EXITS, ROOM, Cold, Reused, asking, warm
from tests.fakes import Fault, tamper


@pytest.fixture(scope="module")
def cold(tiny_model: dyvte.Model) -> Cold:
    return Cold(tiny_model)


def test_aborts_at_any_step_return_every_page(cold: Cold, tiny_model: dyvte.Model) -> None:
    for steps in range(8):
        driver = Reused(tiny_model, warm(max_step_rows=8))
        driver.ask("first", asking(0, 0), "1")
        driver.add("stream", asking(3, 0), GREEDY)
        driver.step()
        for name in ("left", "stays"):
            driver.add(name, asking(0, 1), GREEDY, EXITS["off"])
        for _ in range(steps):
            driver.step()
        driver.core.abort(driver.states["left"])
        driver.run()
        cold.same(driver, "stays", "off", 0, 1, 1, 1)
        driver.check_empty()


@pytest.mark.parametrize("rows", [1024, 8])
@pytest.mark.parametrize("layer", range(tiny.LAYERS))
def test_a_fault_that_passes_costs_nobody_anything(
    layer: int, rows: int, cold: Cold, tiny_model: dyvte.Model, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that were taken are taken again when the step is run once more."""
    model, adapter = tamper(tiny_model)
    driver = Reused(model, warm(max_step_rows=rows))
    driver.ask("first", asking(0, 0), "1")
    driver.add("stream", asking(3, 0), GREEDY)
    driver.step()
    times = iter([True])

    def once(at: int, *_: object) -> None:
        if at == layer and next(times, False):
            raise Fault("a passing fault")

    adapter.on_layer = once
    for index, exits in enumerate(("0", "off")):
        driver.add(f"{index}", asking(0, index), GREEDY, EXITS[exits])
    driver.run()
    for index, exits in enumerate(("0", "off")):
        assert cold.same(driver, f"{index}", exits, 0, index, 1, 1).prefix_hit
    driver.check_empty()


def test_a_source_that_is_preempted_takes_its_rows_along(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    """A prefill in flight was taking rows from a sequence whose pages others needed."""
    driver = Reused(tiny_model, warm(pages=400, max_step_rows=4))
    driver.add("source", asking(0, 0), GREEDY, EXITS["1"])
    driver.step()
    driver.add("taker", asking(0, 1), GREEDY, EXITS["off"])
    driver.step()
    (work,) = driver.core.scheduler.group
    assert work.cached == 12
    group = driver.core._stepper.prefill
    assert group is not None
    assert group.flops > 0
    source = driver.states["source"].choices[0].seq
    driver.core.scheduler.running.remove(source)
    driver.ledger.release(source)
    driver.core._preempt(source)
    driver.run()
    cold.same(driver, "source", "1", 0, 0, 1, 1)
    taker = cold.same(driver, "taker", "off", 0, 1, 1, 1)
    assert (taker.prefix_hit, taker.flops.avoided_by_cache) == (False, 0)
    driver.check_empty()


def test_what_a_prefill_is_taking_is_not_given_up(cold: Cold, tiny_model: dyvte.Model) -> None:
    """It was free to go in the step that had found it, when others ended in that step."""
    driver = Reused(tiny_model, warm(max_step_rows=4))
    driver.ask("first", asking(0, 0), "1")
    driver.add("stream", asking(3, 0), GREEDY, EXITS["off"])
    driver.step()
    driver.add("taker", asking(0, 1), GREEDY, EXITS["off"])
    driver.step()
    assert driver.core.scheduler.group
    driver.core.prefixes.max_bytes = 1
    driver.core.prefixes._shrink()
    assert driver.core.prefixes.rows(driver.states["taker"].prefix_key) == 12
    assert not driver.ledger._kept
    driver.run()
    cold.same(driver, "taker", "off", 0, 1, 1, 1)
    driver.check_empty()


def test_what_was_beyond_the_budget_while_it_was_taken_goes_afterwards(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    """The taker leaves nothing of its own; nobody looked at the budget again when it ended."""
    driver = Reused(tiny_model, warm(max_step_rows=4))
    driver.ask("first", asking(0, 0), "off")
    driver.add("stream", tiny.prompt(3, images=0), GREEDY, EXITS["off"])
    driver.step()
    driver.add("taker", asking(0, 1), GREEDY, EXITS["1"])
    driver.step()
    assert driver.core.scheduler.group
    driver.core.prefixes.max_bytes = 1
    driver.run()
    cold.same(driver, "taker", "1", 0, 1, 1, 1)
    assert driver.core.prefixes.held <= 1
    driver.check_empty()


requests = st.fixed_dictionaries(
    {
        "picture": st.integers(0, 1),
        "question": st.integers(0, 2),
        "images": st.integers(1, 2),
        "gap": st.sampled_from([0, 2]),
        "turns": st.integers(1, 3),
        "exits": st.sampled_from(sorted(EXITS)),
        "salt": st.sampled_from(["", "", "bob"]),
        "joins": st.integers(0, 12),
    }
)
limits = st.fixed_dictionaries(
    {
        "pages": st.sampled_from([48, 64, 400]),
        "memory": st.sampled_from([20_000, ROOM]),
        "max_num_seqs": st.sampled_from([1, 3, 64]),
        "max_step_rows": st.sampled_from([8, 24, 1024]),
    }
)


@settings(max_examples=20)
@given(several=st.lists(requests, min_size=2, max_size=9), limit=limits)
def test_any_schedule_gives_the_answers_of_a_cold_engine(
    several: Sequence[Mapping[str, Any]],
    limit: Mapping[str, Any],
    cold: Cold,
    tiny_model: dyvte.Model,
) -> None:
    """Small pools give entries up and preempt their sources, small steps cut prefills."""
    driver = Reused(tiny_model, warm(**limit))
    shape = ("picture", "question", "images", "gap", "turns")
    for now in range(13):
        for index, request in enumerate(several):
            if request["joins"] == now:
                prompt = asking(*(request[name] for name in shape))
                exits = EXITS[request["exits"]]
                driver.add(f"r{index}", prompt, GREEDY, exits, request["salt"])
        driver.step()
    driver.run()
    for index, request in enumerate(several):
        cold.same(driver, f"r{index}", request["exits"], *(request[name] for name in shape))
    assert driver.core.prefixes.held <= limit["memory"]
    driver.check_empty()


def test_a_source_that_ends_is_kept_while_others_take_from_it(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    driver = Reused(tiny_model, warm(max_step_rows=4))
    driver.add("source", asking(0, 0), GREEDY, EXITS["1"])
    driver.add("stream", asking(3, 0), GREEDY, EXITS["off"])
    driver.step()
    driver.add("taker", asking(0, 1), GREEDY, EXITS["off"])
    driver.step()
    driver.core.abort(driver.states["source"])
    assert driver.core.scheduler.group
    assert driver.core.prefixes.rows(driver.states["taker"].prefix_key) == 12
    assert not driver.ledger._kept
    driver.run()
    cold.same(driver, "taker", "off", 0, 1, 1, 1)
    assert driver.ledger._kept
    driver.check_empty()
