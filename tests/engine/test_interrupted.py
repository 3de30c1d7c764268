"""A step in which nobody decodes ends early when somebody comes; nobody's answer changes by it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dyvte
from dyvte.attention import StepContext
from dyvte.engine.events import EngineRequest
from dyvte.engine.pieces import LARGE, rows_evenly, work_of
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.reuse import EXITS
from tests.engine.running import all_of, running, until
from tests.engine.toy import LEAST, SHAPE
from tests.fakes import tamper


def test_a_long_step_ends_after_a_layer_when_somebody_comes_who_then_passes(
    tiny_model: dyvte.Model,
) -> None:
    driver = Driver(tiny_model, small(400, max_step_rows=20))
    driver.add("pictures", tiny.prompt(0, images=3))
    driver.core.heed(lambda: driver.core._stepper.prefill.loop is not None)  # type: ignore[union-attr]
    driver.step()
    prefill = driver.core._stepper.prefill
    assert prefill is not None
    assert prefill.loop is not None
    assert prefill.loop.layer == 1
    driver.core.heed(lambda: False)
    driver.add("text", tiny.prompt(1, images=0))
    driver.step()
    assert [len(driver.events[name]) for name in ("text", "pictures")] == [1, 0]
    driver.run()
    for index, (name, images) in enumerate((("pictures", 3), ("text", 0))):
        alone = tiny.alone(tiny_model, tiny.prompt(index, images=images), sampling=GREEDY)
        assert driver.tokens(name) == alone.token_ids
    driver.check_empty()


def test_who_is_interrupted_all_the_time_gets_on_all_the_same(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(400, max_step_rows=1))
    driver.core.heed(lambda: True)
    driver.add("r", tiny.prompt(0, images=3))
    steps = 0
    while not driver.events["r"]:
        driver.step()
        steps += 1
    assert 1 + tiny.LAYERS <= steps <= 3 + tiny.LAYERS
    driver.run()
    alone = tiny.alone(tiny_model, tiny.prompt(0, images=3), sampling=GREEDY)
    assert driver.tokens("r") == alone.token_ids


several = st.lists(
    st.fixed_dictionaries(
        {
            "images": st.integers(0, 3),
            "exits": st.sampled_from(sorted(EXITS)),
            "joins": st.integers(0, 6),
            "leaves": st.sampled_from([None, None, 1, 3]),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15)
@given(asked=several, looks=st.lists(st.booleans(), max_size=40), stall=st.booleans())
def test_wherever_steps_end_the_answers_and_accounts_are_those_of_each_alone(
    asked: Sequence[Mapping[str, Any]], looks: list[bool], stall: bool, tiny_model: dyvte.Model
) -> None:
    driver = Driver(tiny_model, small(400, **({"max_step_rows": 20} if stall else {})))
    answers = iter(looks)
    driver.core.heed(lambda: next(answers, False))
    for now in range(10):
        for index, each in enumerate(asked):
            if each["joins"] == now:
                prompt = tiny.prompt(index, images=each["images"])
                driver.add(f"r{index}", prompt, GREEDY, EXITS[each["exits"]])
            if each["leaves"] is not None and each["joins"] + each["leaves"] == now:
                driver.core.abort(driver.states[f"r{index}"])
        driver.step()
    driver.run()
    for index, each in enumerate(asked):
        if each["leaves"] is not None:
            continue
        prompt, exits = tiny.prompt(index, images=each["images"]), EXITS[each["exits"]]
        alone = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=exits)
        stats = driver.core.stats_of(driver.states[f"r{index}"])
        assert driver.tokens(f"r{index}") == alone.token_ids
        assert stats.exit_layer == alone.exit_layer
        assert stats.flops == alone.flops
    driver.check_empty()


@pytest.mark.anyio
async def test_the_engine_s_thread_looks_up_when_a_request_is_handed_in(
    tiny_model: dyvte.Model,
) -> None:
    """The second came while the first's pictures were in the second layer, and was first."""
    model, adapter = tamper(tiny_model)
    reached, handed_in = threading.Event(), threading.Event()
    ran: list[int] = []

    def wait(layer: int, hidden: Tensor, context: StepContext) -> None:
        if len(hidden) > 20 and layer == 1 and not reached.is_set():
            reached.set()
            handed_in.wait(20)
        ran.extend(each.rows for each in context.batch.segments if each.prefill and layer == 3)

    async with running(model, max_step_rows=30) as engine:
        adapter.on_layer = wait
        pictures = engine.submit(EngineRequest("p", tiny.prompt(0, images=3), GREEDY))
        first = asyncio.create_task(all_of(pictures))
        await until(reached.is_set)
        text = engine.submit(EngineRequest("t", tiny.prompt(1, images=0), GREEDY))
        handed_in.set()
        await all_of(text)
        await first
    assert len(ran) == 2
    assert ran == sorted(ran)


@given(
    left=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 500)), min_size=1, max_size=8),
    work=st.integers(1, 4000),
)
def test_even_pieces_are_large_or_within_the_work_and_end(
    left: list[tuple[int, int]], work: int
) -> None:
    budget = SHAPE.linear(work)
    rows = rows_evenly(SHAPE, left, budget)
    total = sum(count for count, _ in left)
    assert bool(rows) is bool(total)
    assert rows <= total
    assert rows <= LARGE or work_of(SHAPE, left, rows, LEAST) <= max(budget, SHAPE.linear(LEAST))
    if total > LARGE and rows < total:
        pieces = -(-total // rows)
        assert rows * pieces - total < pieces, "the last is as large as the others, or nearly"


def test_a_layer_no_larger_than_a_large_piece_runs_whole() -> None:
    assert [rows_evenly(SHAPE, [(rows, 0)], 1) for rows in (1, LARGE, LARGE + 1)] == [
        1,
        LARGE,
        LARGE // 2 + 1,
    ]


@pytest.mark.parametrize(("more", "learned"), [(1, False), (0, True)])
def test_who_passes_with_few_rows_tells_nothing_of_the_pace(
    more: int, learned: bool, tiny_model: dyvte.Model
) -> None:
    """One row of a warm-up had the first stalls cut to a tenth of what fits."""
    driver = Driver(tiny_model, small(400, max_step_rows=20))
    driver.add("pictures", tiny.prompt(0, images=3))
    text = driver.add("text", tiny.prompt(1, images=0))
    pace = driver.core.runner.pace
    pace.least = text.layout.rows + more
    driver.step()
    assert driver.events["text"]
    assert not driver.events["pictures"]
    assert (pace.layers.seconds is not None) is learned
