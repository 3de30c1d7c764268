"""Shadow runs: they tell whether an exit changed an answer, and nobody notices them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

import dyvte
from dyvte import ExitOptions, OptionError, SamplingParams
from dyvte.engine.events import EngineRequest
from dyvte.engine.shadow import ShadowConfig, Shadows
from dyvte.engine.stats import ShadowOutcome, ShadowStats
from tests import tiny
from tests.engine.driver import GREEDY, Driver
from tests.engine.running import Notes, all_of, running, until
from tests.fakes import raise_for, tamper

pytestmark = pytest.mark.anyio
ALL = ShadowConfig(share=1.0)
EARLY = ExitOptions(policy="fixed", exit_layer=0)
OFF = ExitOptions(policy="off")
ENDLESS = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)


class Bench:
    """A core driven by hand with its shadows, and a clock that stands."""

    def __init__(self, model: dyvte.Model, config: ShadowConfig = ALL) -> None:
        self.driver = Driver(model)
        self.told: list[ShadowStats] = []
        self.time = 0.0
        core = self.driver.core
        self.shadows = Shadows(core, config, self.told.append, lambda: self.time)

    def answer(
        self,
        seed: int = 0,
        sampling: SamplingParams = GREEDY,
        exits: ExitOptions = EARLY,
    ) -> list[int]:
        """A request from its beginning to its end, and its offer."""
        name = f"r{len(self.driver.states)}"
        state = self.driver.add(name, tiny.prompt(seed), sampling, exits)
        self.driver.run()
        self.shadows.offer(state, self.driver.core.stats_of(state))
        return self.driver.tokens(name)

    def step(self) -> None:
        assert self.shadows.take(self.driver.core.step()) == []
        self.driver.check_books()

    def quiet(self) -> list[ShadowOutcome]:
        """Let every shadow run to its end; what was told so far."""
        self.shadows.start()
        while self.shadows.running:
            self.step()
            self.shadows.start()
        self.driver.check_empty()
        return [stats.outcome for stats in self.told]


def full(model: dyvte.Model, seed: int, sampling: SamplingParams = GREEDY) -> dyvte.Result:
    return tiny.alone(model, tiny.prompt(seed), sampling=sampling, exits=OFF)


def test_the_outcome_is_what_an_offline_run_without_exit_says(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model)
    expected = []
    for seed in range(12):
        answer = bench.answer(seed, exits=ExitOptions(policy="fixed", exit_layer=seed % 3))
        agrees = full(tiny_model, seed).token_ids == answer
        expected.append(ShadowOutcome.AGREED if agrees else ShadowOutcome.CHANGED)
        assert bench.quiet() == expected
    assert set(expected) == {ShadowOutcome.AGREED, ShadowOutcome.CHANGED}
    assert {stats.policy for stats in bench.told} == {"fixed"}


def test_a_shadow_that_agrees_costs_what_the_request_costs_without_exit(
    tiny_model: dyvte.Model,
) -> None:
    bench = Bench(tiny_model)
    for seed in range(12):
        bench.answer(seed, exits=ExitOptions(policy="fixed", exit_layer=2))
        if bench.quiet()[-1] is ShadowOutcome.AGREED:
            assert bench.told[-1].flops == full(tiny_model, seed).flops.total
    assert ShadowOutcome.AGREED in bench.quiet()


def test_a_shadow_ends_at_the_first_token_that_differs(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model)
    seed = next(s for s in range(20) if bench.answer(s)[0] != full(tiny_model, s).token_ids[0])
    bench.shadows.close()
    bench = Bench(tiny_model)
    bench.answer(seed)
    assert bench.quiet() == [ShadowOutcome.CHANGED]
    one = full(tiny_model, seed, SamplingParams(max_tokens=1, temperature=0))
    assert bench.told[0].flops == one.flops.total


def test_the_end_of_an_answer_counts(tiny_model: dyvte.Model) -> None:
    """Where the whole model would have gone on, or stopped, the answer is another one."""
    for seed in range(6):
        answer = full(tiny_model, seed).token_ids
        for cut in (answer[2], answer[4]):
            params = replace(GREEDY, stop_token_ids=(cut,))
            bench = Bench(tiny_model)
            shown = bench.answer(seed, params)
            same = full(tiny_model, seed, params).token_ids == shown
            assert bench.quiet() == [ShadowOutcome.AGREED if same else ShadowOutcome.CHANGED]


def test_an_answer_that_its_text_ended_is_compared_as_far_as_it_goes(
    tiny_model: dyvte.Model,
) -> None:
    bench = Bench(tiny_model)
    late = ExitOptions(policy="fixed", exit_layer=2)
    seed = next(
        s for s in range(20) if bench.answer(s, exits=late) == full(tiny_model, s).token_ids
    )
    bench = Bench(tiny_model)
    state = bench.driver.add("cut", tiny.prompt(seed), ENDLESS, late)
    for _ in range(3):
        bench.driver.step()
    bench.driver.core.finish_choice(state, 0)
    bench.shadows.offer(state, bench.driver.core.stats_of(state))
    assert bench.quiet() == [ShadowOutcome.AGREED]


def test_what_nothing_left_is_not_drawn_and_what_was_sampled_is_skipped(
    tiny_model: dyvte.Model,
) -> None:
    bench = Bench(tiny_model)
    bench.answer(exits=OFF)
    bench.answer(exits=ExitOptions(policy="fixed", exit_layer=tiny.LAYERS - 1))
    bench.answer(exits=ExitOptions(aggressiveness=0.0))
    assert bench.quiet() == []
    bench.answer(sampling=SamplingParams(max_tokens=3, temperature=0.7, seed=1))
    assert bench.quiet() == [ShadowOutcome.SKIPPED]
    assert bench.told[0].flops == 0


def test_a_request_makes_the_shadow_give_way_and_it_is_tried_again(
    tiny_model: dyvte.Model,
) -> None:
    bench = Bench(tiny_model)
    bench.answer(seed=1)
    bench.shadows.start()
    bench.step()
    bench.shadows.give_way()
    bench.driver.check_empty()
    assert bench.shadows.waiting
    assert not bench.shadows.running
    (outcome,) = bench.quiet()
    undisturbed = Bench(tiny_model)
    undisturbed.answer(seed=1)
    assert undisturbed.quiet() == [outcome]
    assert bench.told[0].flops > undisturbed.told[0].flops, "both attempts cost"


def test_giving_way_inside_a_cut_prefill_frees_its_pages(tiny_model: dyvte.Model) -> None:
    """Nobody waits and it is cut all the same; what had run is counted."""
    bench = Bench(tiny_model)
    bench.answer()
    bench.driver.core.runner.pace.fixed, bench.driver.core.runner.pace.least = 1, 5
    bench.shadows.start()
    bench.step()
    vision = tiny_model.adapter.layout(tiny.prompt(0)).vision_flops
    assert bench.driver.core._stepper.prefill is not None
    bench.step()
    bench.shadows.give_way()
    bench.driver.check_empty()
    bench.shadows.close()
    assert bench.told[0].flops == vision + tiny_model.adapter.decoder.layer(5, 5)


def test_who_waits_too_long_or_in_a_line_too_long_is_dropped(tiny_model: dyvte.Model) -> None:
    bench = Bench(tiny_model, ShadowConfig(share=1.0, patience_s=5.0, most_pending=2))
    for _ in range(3):
        bench.answer()
    assert [stats.outcome for stats in bench.told] == [ShadowOutcome.DROPPED]
    bench.time = 5.1
    assert bench.quiet() == [ShadowOutcome.DROPPED] * 3


def test_the_draw_repeats_with_its_seed(tiny_model: dyvte.Model) -> None:
    def drawn(seed: int) -> list[int]:
        bench = Bench(tiny_model, ShadowConfig(share=0.3, seed=seed, most_pending=99))
        counts = []
        for _ in range(30):
            bench.answer(sampling=SamplingParams(max_tokens=1, temperature=0))
            counts.append(len(bench.shadows._pending))
        return counts

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 3 <= drawn(1)[-1] <= 16


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(OptionError, match=r"shadow_share.*0 and 1"):
        ShadowConfig(share=1.5)


def test_a_shadow_that_fails_fails_alone(tiny_model: dyvte.Model) -> None:
    model, adapter = tamper(tiny_model)
    bench = Bench(model)
    bench.answer()
    bench.shadows.start()
    adapter.on_layer = raise_for({1}, {1})
    logging.disable(logging.CRITICAL)
    assert bench.quiet() == [ShadowOutcome.DROPPED]
    logging.disable(logging.NOTSET)
    bench.answer(seed=1)
    assert len(bench.quiet()) == 2


def request(name: str, seed: int = 0, sampling: SamplingParams = GREEDY) -> EngineRequest:
    return EngineRequest(name, tiny.prompt(seed), sampling, EARLY)


async def test_requests_get_their_tokens_and_observers_their_counts_as_without_shadows(
    tiny_model: dyvte.Model,
) -> None:
    notes = Notes()
    async with running(tiny_model, max_waiting=20, shadows=ALL, max_step_rows=16) as engine:
        engine.observe(notes)
        for wave in range(4):
            streams = [engine.submit(request(f"r{seed}", seed)) for seed in range(4)]
            for seed, events in enumerate(await asyncio.gather(*map(all_of, streams))):
                expected = tiny.alone(tiny_model, tiny.prompt(seed), sampling=GREEDY, exits=EARLY)
                assert [event.token_id for event in events] == expected.token_ids
            await asyncio.sleep(0.01 * wave)
        await until(lambda: len(notes.shadows) == 16)
        assert engine.snapshot().running == 0
    assert len(notes.finished) == 16
    rows = len(tiny.prompt(0).token_ids) - 1 + tiny.VISUAL
    assert 0 < sum(step.prefill_rows for step in notes.steps) <= 16 * rows
    assert {s.outcome for s in notes.shadows} >= {ShadowOutcome.CHANGED}


async def test_a_shadow_is_no_running_request_and_drain_does_not_wait_for_it(
    tiny_model: dyvte.Model,
) -> None:
    model, _ = tamper(tiny_model)
    notes = Notes()
    late = ExitOptions(policy="fixed", exit_layer=2)
    seed = next(
        s
        for s in range(20)
        if tiny.alone(model, tiny.prompt(s), sampling=ENDLESS, exits=late).token_ids[:20]
        == full(model, s, ENDLESS).token_ids[:20]
    )
    async with running(model, shadows=ALL) as engine:
        engine.observe(notes)
        await all_of(engine.submit(EngineRequest("r", tiny.prompt(seed), ENDLESS, late)))
        await until(lambda: engine._shadows.running)
        assert (engine.snapshot().running, engine.snapshot().waiting) == (0, 0)
        async with asyncio.timeout(5):
            assert await engine.drain(30)
        await until(lambda: bool(notes.shadows))
    assert len(notes.finished) == 1


async def test_a_request_named_like_a_shadow_hears_its_own_tokens_only(
    tiny_model: dyvte.Model,
) -> None:
    async with running(tiny_model, shadows=ALL) as engine:
        await all_of(engine.submit(request("r")))
        events = await all_of(engine.submit(request("shadow 0 of r", 3)))
    expected = tiny.alone(tiny_model, tiny.prompt(3), sampling=GREEDY, exits=EARLY)
    assert [event.token_id for event in events] == expected.token_ids
