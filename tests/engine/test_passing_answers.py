"""Who passes whom changes nobody's answer, exit or account, whatever the schedule."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from dyvte import SamplingParams
from dyvte.attention import StepContext
from dyvte.engine.plan import Plan
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.reuse import EXITS, Cold, Reused, asking, warm
from tests.fakes import Fault, tamper

LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
TWO = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, n=2)


class Seeing(Reused):
    """A driver that remembers its plans."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.plans: list[Plan] = []
        run = self.core._run

        def noted(plan: Plan) -> Any:
            self.plans.append(plan)
            return run(plan)

        self.core._run = noted  # type: ignore[method-assign]

    @property
    def passings(self) -> int:
        return sum(bool(plan.passing) for plan in self.plans)


def beside_pictures(model: dyvte.Model) -> Seeing:
    """One that decodes and one of five pictures, of whose prefill a piece has run."""
    driver = Seeing(model, small(400, max_step_rows=20, max_model_len=128))
    driver.add("stream", tiny.prompt(0), LONG)
    driver.step()
    driver.add("pictures", tiny.prompt(1, images=5))
    prefill = None
    while prefill is None or not prefill.row_layers:
        driver.step()
        prefill = driver.core._stepper.prefill
        assert not driver.events["pictures"]
    return driver


def same_as_alone(driver: Driver, name: str, prompt: dyvte.Prompt, **asked: Any) -> None:
    alone = tiny.alone(driver.core.model, prompt, **({"sampling": GREEDY} | asked))
    stats = driver.core.stats_of(driver.states[name])
    assert driver.tokens(name) == alone.token_ids
    assert stats.exit_layer == alone.exit_layer
    assert stats.flops == alone.flops


def test_a_text_s_first_token_comes_before_that_of_pictures_in_flight(
    tiny_model: dyvte.Model,
) -> None:
    driver = beside_pictures(tiny_model)
    driver.add("text", tiny.prompt(2, images=0))
    driver.step()
    assert len(driver.events["text"]) == 1
    assert driver.core._stepper.prefill is not None
    driver.run()
    same_as_alone(driver, "text", tiny.prompt(2, images=0))
    same_as_alone(driver, "pictures", tiny.prompt(1, images=5))
    driver.check_empty()


def test_the_next_turn_of_a_conversation_passes_and_the_first_does_not(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    """Its own rows are few once the picture's are there."""
    driver = Seeing(tiny_model, warm(max_step_rows=20))
    driver.ask("first", asking(0, 0), "1")
    driver.add("stream", asking(3, 0), GREEDY)
    driver.step()
    driver.add("pictures", asking(4, 0, 4), GREEDY)
    driver.step()
    driver.add("other", asking(5, 0), GREEDY, EXITS["1"])
    driver.add("next", asking(0, 1), GREEDY, EXITS["1"])
    while not driver.events["next"]:
        driver.step()
    assert driver.passings == 1
    assert not driver.events["pictures"]
    assert not driver.events["other"]
    driver.run()
    assert cold.same(driver, "next", "1", 0, 1, 1, 1).prefix_hit
    driver.check_empty()


def test_who_passes_leaves_alone_what_a_prefill_in_flight_takes_from(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    """It went deeper than the entry, which it would replace: but that is still being read."""
    driver = Seeing(tiny_model, warm(max_step_rows=60))
    driver.ask("first", asking(0, 0), "0")
    driver.add("stream", asking(3, 0), GREEDY)
    driver.step()
    driver.core.runner.pace.fixed = 1
    driver.core.runner.pace.least = 2
    driver.add("taker", asking(0, 1, 1, 1, 3), GREEDY, EXITS["0"])
    for _ in range(3):
        driver.step()
    driver.core.runner.pace.fixed = 10**9
    taker = driver.core._stepper.prefill
    assert taker is not None
    driver.core.scheduler._passed = False
    driver.add("deeper", asking(0, 2), GREEDY, EXITS["off"])
    driver.step()
    assert driver.passings == 1
    assert driver.core._stepper.prefill is taker
    driver.run()
    cold.same(driver, "taker", "0", 0, 1, 1, 1, 3)
    cold.same(driver, "deeper", "off", 0, 2, 1, 1)
    driver.check_empty()


@pytest.fixture(scope="module")
def cold(tiny_model: dyvte.Model) -> Cold:
    return Cold(tiny_model)


@pytest.mark.parametrize("passes", [True, False])
def test_a_fault_of_who_passes_does_not_touch_the_group_in_flight(
    passes: bool, tiny_model: dyvte.Model
) -> None:
    """One that comes back fails its request alone; one that does not costs nobody anything."""
    model, adapter = tamper(tiny_model)
    driver = beside_pictures(model)
    before = driver.core._stepper.prefill
    state = driver.add("text", tiny.prompt(2, images=0))
    faults = iter([True] + [not passes] * 100)

    def fail(layer: int, hidden: Any, context: StepContext) -> None:
        ours = any(each.seq == state.choices[0].seq for each in context.batch.segments)
        if ours and layer == 1 and next(faults):
            raise Fault("of the one that passes")

    adapter.on_layer = fail
    logging.disable(logging.CRITICAL)
    driver.step()
    logging.disable(logging.NOTSET)
    assert driver.core._stepper.prefill is before
    assert len(driver.errors["text"]) == (not passes)
    assert len(driver.events["text"]) == passes
    driver.run()
    if passes:
        same_as_alone(driver, "text", tiny.prompt(2, images=0))
    same_as_alone(driver, "pictures", tiny.prompt(1, images=5))
    same_as_alone(driver, "stream", tiny.prompt(0), sampling=LONG)
    driver.check_empty()


def test_both_choices_of_one_that_passes_are_answered(tiny_model: dyvte.Model) -> None:
    driver = beside_pictures(tiny_model)
    driver.add("two", tiny.prompt(2, images=0), TWO)
    driver.step()
    assert [event.index for event in driver.events["two"]] == [0, 1]
    driver.run()
    alone = tiny.alone(tiny_model, tiny.prompt(2, images=0), sampling=GREEDY).token_ids
    assert [driver.tokens("two", index) for index in (0, 1)] == [alone, alone]
    driver.check_empty()


requests = st.fixed_dictionaries(
    {
        "images": st.sampled_from([0, 0, 0, 1, 4]),
        "exits": st.sampled_from(["off", "0", "gate"]),
        "n": st.sampled_from([1, 1, 2]),
        "joins": st.integers(0, 12),
        "leaves": st.sampled_from([None, None, None, 2, 5]),
    }
)
limits = st.fixed_dictionaries(
    {
        "pages": st.sampled_from([48, 80, 400]),
        "max_num_seqs": st.sampled_from([2, 4, 64]),
        "max_step_rows": st.sampled_from([8, 20, 40]),
    }
)


@settings(max_examples=15)
@given(several=st.lists(requests, min_size=2, max_size=9), limit=limits)
def test_any_schedule_gives_the_answers_and_accounts_of_each_alone(
    several: Sequence[Mapping[str, Any]], limit: Mapping[str, Any], tiny_model: dyvte.Model
) -> None:
    driver = Seeing(tiny_model, small(max_model_len=96, **limit))
    for now in range(18):
        for index, each in enumerate(several):
            name = f"r{index}"
            if each["joins"] == now:
                prompt = tiny.prompt(index, images=each["images"])
                sampling = TWO if each["n"] == 2 else GREEDY
                driver.add(name, prompt, sampling, EXITS[each["exits"]])
            if each["leaves"] is not None and each["joins"] + each["leaves"] == now:
                driver.core.abort(driver.states[name])
        driver.step()
    driver.run()
    for index, each in enumerate(several):
        state = driver.states[f"r{index}"]
        if each["leaves"] is None:
            prompt, exits = tiny.prompt(index, images=each["images"]), EXITS[each["exits"]]
            alone = tiny.alone(tiny_model, prompt, sampling=state.sampling, exits=exits)
            stats = driver.core.stats_of(state)
            for choice in range(each["n"]):
                assert driver.tokens(f"r{index}", choice) == alone.token_ids
            assert stats.exit_layer == alone.exit_layer
            assert stats.flops == alone.flops
    driver.check_empty()
