"""The next turn of a conversation takes over the earlier ones where its images are sure to leave at
the same layer, and gets what a cold engine says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import dyvte
from dyvte.attention import DenseAttention
from dyvte.engine.stats import RequestStats
from dyvte.kv_cache import PagedCache
from dyvte.prompt import Prompt
from tests import tiny
from tests.engine.driver import GREEDY, PAGE_BYTES, Driver, small
from tests.engine.reuse import EXITS, Reused, asking, warm
from tests.test_flop_counter import counted

CERTAIN = ["off", *map(str, range(tiny.LAYERS))]


def going_on(prompt: Prompt, answer: Sequence[int], question: int = 9) -> Prompt:
    """The next turn: what was said, and five ids more."""
    words = torch.Generator().manual_seed(question)
    more = torch.randint(5, tiny.VOCAB - 3, (5,), generator=words).tolist()
    return replace(prompt, token_ids=[*prompt.token_ids, *answer, *more])


def same_as_cold(driver: Driver, name: str, prompt: Prompt, exits: str) -> RequestStats:
    """Check a request against an engine of its own without a cache; its account."""
    cold = Driver(driver.core.model, small(400, max_model_len=96))
    state = cold.add("r", prompt, GREEDY, EXITS[exits])
    cold.run()
    wanted, stats = cold.core.stats_of(state), driver.core.stats_of(driver.states[name])
    assert driver.tokens(name) == cold.tokens("r")
    assert stats.tokens_per_layer == wanted.tokens_per_layer
    assert stats.kv_tokens_per_layer == wanted.kv_tokens_per_layer
    spared = stats.flops.avoided_by_cache
    assert stats.flops == replace(wanted.flops, avoided_by_cache=spared)
    return stats


def rows_of(driver: Driver, name: str) -> int:
    return driver.states[name].layout.rows


@pytest.mark.parametrize(("images", "gap"), [(1, 0), (2, 2)])
@pytest.mark.parametrize("exits", CERTAIN)
def test_a_turn_runs_what_was_not_said_before(
    exits: str, images: int, gap: int, tiny_model: dyvte.Model
) -> None:
    driver, prompt = Reused(tiny_model, warm()), asking(0, 0, images, gap)
    driver.ask("0", prompt, exits)
    for turn in range(1, 4):
        prompt = going_on(prompt, driver.tokens(f"{turn - 1}"), turn)
        driver.ask(f"{turn}", prompt, exits)
        stats = same_as_cold(driver, f"{turn}", prompt, exits)
        assert stats.cached_tokens == rows_of(driver, f"{turn}") - 5 - 1  # the last token never ran
    assert len(driver.core.prefixes) == 1
    driver.check_empty()


def test_an_answer_that_comes_back_in_other_tokens_is_run_again(tiny_model: dyvte.Model) -> None:
    driver, first = Reused(tiny_model, warm()), asking(0, 0)
    driver.ask("first", first, "1")
    told = driver.tokens("first")
    told[3] += 1
    prompt = going_on(first, told)
    driver.ask("next", prompt, "1")
    stats = same_as_cold(driver, "next", prompt, "1")
    assert stats.cached_tokens == rows_of(driver, "first") + 3
    driver.check_empty()


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("2", "1"), ("off", "gate")])
def test_another_exit_shares_the_pictures_only(
    first: str, second: str, tiny_model: dyvte.Model
) -> None:
    driver, prompt = Reused(tiny_model, warm()), asking(0, 0)
    driver.ask("first", prompt, first)
    prompt = going_on(prompt, driver.tokens("first"))
    driver.ask("next", prompt, second)
    assert same_as_cold(driver, "next", prompt, second).cached_tokens == 12
    driver.check_empty()


def test_a_gate_shares_what_it_left_with_who_is_sure_to_leave_there(
    tiny_model: dyvte.Model,
) -> None:
    driver, prompt = Reused(tiny_model, warm()), asking(0, 0)
    layer = driver.ask("gate", prompt, "gate .9").exit_layer
    assert layer is not None
    prompt = going_on(prompt, driver.tokens("gate"))
    driver.ask("fixed", prompt, f"{layer}")
    stats = same_as_cold(driver, "fixed", prompt, f"{layer}")
    assert stats.cached_tokens == rows_of(driver, "fixed") - 6
    driver.check_empty()


def test_what_is_told_as_executed_is_what_torch_counts(plain_model: dyvte.Model) -> None:
    driver, prompt = Reused(plain_model, warm()), asking(0, 0, images=2)
    driver.core.runner.attention = DenseAttention()
    driver.ask("first", prompt, "1")
    state = driver.add("next", going_on(prompt, driver.tokens("first")), GREEDY, EXITS["1"])
    total = counted(driver.run)
    assert driver.core.stats_of(state).flops.executed == total


def test_two_conversations_about_one_picture_disturb_nobody(tiny_model: dyvte.Model) -> None:
    """They run side by side, and each ends where the other's rows are the entry's."""
    driver = Reused(tiny_model, warm(max_step_rows=8))
    prompts = {name: asking(0, number) for number, name in enumerate("ab")}
    for turn in range(4):
        for name, prompt in prompts.items():
            driver.add(f"{name}{turn}", prompt, GREEDY, EXITS["1"])
        driver.run()
        for name, prompt in prompts.items():
            same_as_cold(driver, f"{name}{turn}", prompt, "1")
            prompts[name] = going_on(prompt, driver.tokens(f"{name}{turn}"), turn)
    driver.check_empty()


def test_the_next_turn_after_an_abort_takes_what_there_is(tiny_model: dyvte.Model) -> None:
    for steps in range(1, 6):
        driver, prompt = Reused(tiny_model, warm()), asking(0, 0)
        driver.add("first", prompt, GREEDY, EXITS["2"])
        for _ in range(steps):
            driver.step()
        driver.core.abort(driver.states["first"])
        prompt = going_on(prompt, driver.states["first"].choices[0].token_ids)
        driver.ask("next", prompt, "2")
        stats = same_as_cold(driver, "next", prompt, "2")
        assert stats.cached_tokens == rows_of(driver, "next") - 6
        driver.check_empty()


def test_a_budget_too_small_for_a_conversation_keeps_its_picture(tiny_model: dyvte.Model) -> None:
    prompt, long = asking(0, 0), replace(GREEDY, max_tokens=40)
    driver = Reused(tiny_model, warm())
    driver.add("first", prompt, long, EXITS["off"])
    driver.run()
    whole = driver.core.prefixes.held
    driver.check_empty()
    driver = Reused(tiny_model, warm(memory=whole - PAGE_BYTES))
    driver.add("first", prompt, long, EXITS["off"])
    driver.run()
    prompt = going_on(prompt, driver.tokens("first"))
    driver.ask("next", prompt, "off")
    assert same_as_cold(driver, "next", prompt, "off").cached_tokens == 12
    driver.check_empty()


def test_any_choice_can_be_gone_on_with(tiny_model: dyvte.Model) -> None:
    driver, first = Reused(tiny_model, warm()), asking(0, 0)
    driver.add("first", first, replace(GREEDY, n=3, temperature=1.5, seed=4), EXITS["0"])
    driver.run()
    for choice in range(3):
        prompt = going_on(first, driver.tokens("first", choice), choice)
        driver.ask(f"{choice}", prompt, "0")
        stats = same_as_cold(driver, f"{choice}", prompt, "0")
        assert stats.cached_tokens >= rows_of(driver, "first")
    driver.check_empty()


def test_a_recomputed_answer_takes_what_was_said_alike(tiny_model: dyvte.Model) -> None:
    """Rows of its own answer are there, because another was asked the same and told the same. It
    once ran all of its answer behind them."""
    driver, prompt = Reused(tiny_model, warm()), asking(0, 0)
    driver.add("first", prompt, GREEDY, EXITS["1"])
    driver.step()
    driver.add("second", prompt, GREEDY, EXITS["1"])
    while not driver.states["first"].done:
        driver.step()
    sequence = driver.states["second"].choices[0]
    assert len(sequence.token_ids) > 2
    driver.core.scheduler.running.remove(sequence.seq)
    driver.ledger.release(sequence.seq)
    driver.core._preempt(sequence.seq)
    driver.step()
    assert driver.core.last_step.prefill_rows == 2
    driver.run()
    assert driver.tokens("second") == driver.tokens("first")
    driver.check_empty()


def test_pages_are_taken_from_pages(tiny_model: dyvte.Model) -> None:
    driver, prompt = Reused(tiny_model, warm()), asking(0, 0)
    core = driver.core
    core.runner.cache = core.prefixes._cache = PagedCache(
        core.scheduler.ledger, 2, 8, torch.float32
    )
    for turn in range(3):
        driver.ask(f"{turn}", prompt, "1")
        stats = same_as_cold(driver, f"{turn}", prompt, "1")
        assert stats.cached_tokens == (rows_of(driver, f"{turn}") - 6 if turn else 0)
        prompt = going_on(prompt, driver.tokens(f"{turn}"), turn)
    driver.check_empty()
