"""The engine behind its thread: events come, a closed or dropped stream aborts, an end is told."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace

import pytest

import dyvte
from dyvte import ExitOptions, OptionError, Prompt, PromptError, SamplingParams
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.events import EngineRequest
from dyvte.engine.handle import AsyncEngine
from dyvte.engine.info import describe
from dyvte.engine.stats import RequestStats, ShadowStats, StepStats, UnfinishedStats
from dyvte.errors import EngineStopped, QueueFull, RequestFailed
from dyvte.models.adapter import PromptLayout
from dyvte.params import FinishReason
from tests import tiny
from tests.engine.driver import GREEDY
from tests.engine.running import Notes, all_of, running, until
from tests.fakes import Fault, raise_for, tamper

pytestmark = pytest.mark.anyio
ENDLESS = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
GATE = ExitOptions(policy="gate", aggressiveness=0.5)


def request(
    name: str, seed: int = 0, sampling: SamplingParams = GREEDY, exits: ExitOptions = GATE
) -> EngineRequest:
    return EngineRequest(name, tiny.prompt(seed), sampling, exits)


async def test_many_streams_each_get_the_tokens_of_alone(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model, max_step_rows=16) as engine:
        streams = [engine.submit(request(f"r{seed}", seed)) for seed in range(6)]
        answers = await asyncio.gather(*map(all_of, streams))
    for seed, events in enumerate(answers):
        expected = tiny.alone(tiny_model, tiny.prompt(seed), sampling=GREEDY, exits=GATE)
        assert [event.token_id for event in events] == expected.token_ids
        assert [event.stats is not None for event in events] == [False] * 5 + [True]
        assert events[-1].finish_reason is FinishReason.LENGTH
        assert events[-1].stats is not None
        assert events[-1].stats.exit_layer == expected.exit_layer


async def test_closing_a_stream_aborts_its_request(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r", sampling=ENDLESS))
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        await until(lambda: engine.core.scheduler.ledger.usage == 0)
        assert await all_of(stream) == []
        assert engine.snapshot().running == 0


async def test_dropping_a_stream_aborts_its_request(tiny_model: dyvte.Model) -> None:
    """The engine itself kept the stream alive, so that it ran to its end for nobody."""
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r", sampling=ENDLESS))
        await anext(stream)
        del stream
        gc.collect()
        await until(lambda: not engine.core.has_work)
        assert engine.core.scheduler.ledger.usage == 0


async def test_cancelling_the_reader_aborts_its_request(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        reader = asyncio.create_task(all_of(engine.submit(request("r", sampling=ENDLESS))))
        await until(lambda: engine.snapshot().running == 1)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        await until(lambda: engine.snapshot().running == 0)


async def test_closing_wakes_a_reader_in_another_task(tiny_model: dyvte.Model) -> None:
    """A watcher that closes for a client who is gone must not leave the reader waiting."""
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r", sampling=ENDLESS))
        reader = asyncio.create_task(all_of(stream))
        await until(lambda: engine.snapshot().running == 1)
        await stream.aclose()
        async with asyncio.timeout(5):
            await reader


async def test_closing_an_old_stream_leaves_the_next_of_its_name_alone(
    tiny_model: dyvte.Model,
) -> None:
    """Names were struck off without a look at whose they were: the second one never ended."""
    async with running(tiny_model) as engine:
        first = engine.submit(request("same"))
        await until(lambda: not engine.core.has_work and not engine._outboxes)
        second = engine.submit(request("same", 1))
        await first.aclose()
        async with asyncio.timeout(20):
            assert len(await all_of(second)) == 6


async def test_a_name_in_use_is_refused(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r", sampling=ENDLESS))
        with pytest.raises(ValueError, match="in use"):
            engine.submit(request("r"))
        await stream.aclose()


async def test_a_full_line_turns_requests_away(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model, max_waiting=1, max_num_seqs=1) as engine:
        streams = [engine.submit(request(f"r{i}", sampling=ENDLESS)) for i in range(2)]
        with pytest.raises(QueueFull) as caught:
            engine.submit(request("r2"))
        assert caught.value.retry_after_s > 0
        for stream in streams:
            await stream.aclose()
        await until(lambda: not engine._outboxes)
        assert len(await all_of(engine.submit(request("r3")))) == 6


async def test_a_line_that_is_full_of_tokens_turns_requests_away(tiny_model: dyvte.Model) -> None:
    """A long prompt finds a place in an empty line, whatever its length."""
    core = build_core(tiny_model, EngineConfig(max_num_seqs=1))
    rows = core.check(request("r")).layout.rows
    engine = AsyncEngine(core, describe(tiny_model, core), 100, max_waiting_tokens=2 * rows)
    await engine.start()
    streams = [engine.submit(request("r0", sampling=ENDLESS))]
    await anext(streams[0])
    streams += [engine.submit(request(f"r{i}", sampling=ENDLESS)) for i in (1, 2)]
    with pytest.raises(QueueFull, match=f"{2 * rows} tokens are waiting"):
        engine.submit(request("r3"))
    for stream in streams:
        await stream.aclose()
    await until(lambda: not engine._outboxes)
    assert len(await all_of(engine.submit(request("r4")))) == 6
    await engine.stop()


async def test_finish_ends_a_choice_and_the_stats_still_come(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(max_tokens=200, n=2, seed=1, ignore_eos=True)
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r", sampling=params))
        events = list(await anext(stream))
        engine.finish("r", 0)
        engine.finish("r", 0)
        engine.finish("nobody", 0)
        await asyncio.sleep(0.05)
        engine.finish("r", 1)
        events += await all_of(stream)
    ends = {e.index: e.finish_reason for e in events if e.finish_reason is not None}
    assert ends == {0: FinishReason.STOP, 1: FinishReason.STOP}
    assert [e.stats is not None for e in events].count(True) == 1
    assert events[-1].stats is not None


async def test_what_does_not_fit_is_refused_before_it_is_queued(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        with pytest.raises(PromptError, match="context"):
            engine.submit(request("r", sampling=SamplingParams(max_tokens=9999)))
        with pytest.raises(OptionError, match="exit_layer"):
            engine.submit(request("r", exits=ExitOptions(policy="fixed", exit_layer=9)))
        prompt = tiny.prompt(0)
        rows = len(prompt.token_ids) - 1 + tiny.VISUAL
        assert engine.check(prompt, GREEDY, None).prompt_tokens == rows
        assert not engine._outboxes


async def test_what_was_checked_is_not_expanded_again_unless_it_is_another(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = tamper(tiny_model)
    asked = request("r")
    async with running(model) as engine:
        expanded: list[Prompt] = []
        expand = adapter.layout

        def noted(prompt: Prompt) -> PromptLayout:
            expanded.append(prompt)
            return expand(prompt)

        monkeypatch.setattr(adapter, "layout", noted)
        checked = engine.check(asked.prompt, asked.sampling, asked.exits)
        events = await all_of(engine.submit(replace(asked, checked=checked)))
        assert expanded == [asked.prompt]
        other = replace(request("other", seed=1), checked=checked)
        others = await all_of(engine.submit(other))
        assert expanded == [asked.prompt, other.prompt]
    expected = [
        tiny.alone(tiny_model, each.prompt, sampling=GREEDY, exits=GATE).token_ids
        for each in (asked, other)
    ]
    assert [[event.token_id for event in each] for each in (events, others)] == expected


async def test_drain_finishes_what_runs_and_takes_nothing_new(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        stream = engine.submit(request("r"))
        drained = asyncio.create_task(engine.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(EngineStopped):
            engine.submit(request("late"))
        assert len(await all_of(stream)) == 6
        assert await drained


async def test_drain_gives_up_in_time_and_stop_tells_the_rest(tiny_model: dyvte.Model) -> None:
    async with running(tiny_model) as engine:
        slow = SamplingParams(max_tokens=230, temperature=0, ignore_eos=True)
        stream = engine.submit(request("r", sampling=slow))
        assert not await engine.drain(0.01)
        await engine.stop()
        with pytest.raises(EngineStopped, match="stopping"):
            await all_of(stream)


async def test_a_failed_request_is_told_and_the_engine_lives(tiny_model: dyvte.Model) -> None:
    model, adapter = tamper(tiny_model)
    async with running(model) as engine:
        stream = engine.submit(request("r", sampling=ENDLESS))
        await anext(stream)
        [seq] = engine.core.scheduler.running
        logging.disable(logging.CRITICAL)
        adapter.on_layer = raise_for({seq}, {1})
        with pytest.raises(RequestFailed) as caught:
            await all_of(stream)
        logging.disable(logging.NOTSET)
        assert caught.value.request_id == "r"
        assert engine.alive
        assert len(await all_of(engine.submit(request("next")))) == 6


async def test_the_threads_death_is_told_to_everybody(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tamper(tiny_model)
    core = build_core(model)
    engine = AsyncEngine(core, describe(model, core))
    await engine.start()
    streams = [engine.submit(request(f"r{i}", sampling=ENDLESS)) for i in range(2)]
    for stream in streams:
        await anext(stream)
    logging.disable(logging.CRITICAL)

    def die() -> None:
        raise Fault("the core is broken")

    monkeypatch.setattr(core, "step", die)
    for stream in streams:
        with pytest.raises(EngineStopped, match="died"):
            await all_of(stream)
    await until(lambda: not engine.alive)
    logging.disable(logging.NOTSET)
    with pytest.raises(EngineStopped):
        engine.submit(request("late"))
    await engine.stop()


async def test_observers_hear_of_steps_and_ends_but_not_of_aborts(tiny_model: dyvte.Model) -> None:
    notes = Notes()
    async with running(tiny_model) as engine:
        engine.observe(notes)
        await all_of(engine.submit(request("r")))
        stream = engine.submit(request("gone", sampling=ENDLESS))
        await anext(stream)
        await stream.aclose()
    assert [stats.completion_tokens for stats in notes.finished] == [6]
    assert notes.steps[0].prefill_rows > 0
    assert sum(step.decode_rows for step in notes.steps) >= 5


def test_info_says_what_is_loaded(tiny_model: dyvte.Model) -> None:
    core = build_core(tiny_model, EngineConfig(max_model_len=100))
    info = describe(tiny_model, core)
    assert (info.family, info.num_layers, info.max_model_len) == ("llava", tiny.LAYERS, 100)
    assert info.policies == ("gate", "fixed", "off")
    assert info.default_exits.aggressiveness == 0.5
    assert set(info.presets) == {"off", "safe", "balanced", "aggressive"}


async def test_an_observer_that_raises_costs_nobody_an_answer(tiny_model: dyvte.Model) -> None:
    class Broken:
        def on_step(self, step: StepStats) -> None:
            raise RuntimeError("no")

        def on_finish(self, stats: RequestStats) -> None:
            raise RuntimeError("no")

        def on_unfinished(self, stats: UnfinishedStats) -> None:
            raise RuntimeError("broken metrics")

        def on_shadow(self, shadow: ShadowStats) -> None:
            raise RuntimeError("no")

    async with running(tiny_model) as engine:
        engine.observe(Broken())
        events = await all_of(engine.submit(request("watched")))
        assert events[-1].stats is not None
        assert engine.alive
