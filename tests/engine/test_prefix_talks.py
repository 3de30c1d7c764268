"""Conversations in any schedule, with choices, aborts, faults and short pools: each turn is told
what an engine without a cache says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from dyvte.engine.stats import RequestStats
from dyvte.kv_cache import PagedCache
from dyvte.params import FinishReason
from dyvte.prompt import Prompt
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.reuse import EXITS, ROOM, Reused, asking, warm
from tests.engine.test_prefix_conversations import going_on
from tests.fakes import Fault, tamper

TURNS = 3


class Answers:
    """What a turn gets on an engine without a cache, remembered between examples."""

    def __init__(self, model: dyvte.Model) -> None:
        self.model = model
        self.of = cache(self._of)

    def _of(
        self, exits: str, picture: int, images: int, gap: int, ids: tuple[int, ...]
    ) -> tuple[list[int], RequestStats]:
        driver = Driver(self.model, small(400, max_model_len=96))
        prompt = replace(asking(picture, 0, images, gap), token_ids=list(ids))
        state = driver.add("r", prompt, GREEDY, EXITS[exits])
        driver.run()
        return driver.tokens("r"), driver.core.stats_of(state)


@pytest.fixture(scope="module")
def answers(tiny_model: dyvte.Model) -> Answers:
    return Answers(tiny_model)


@dataclass
class Talk:
    """One conversation: its next prompt, and the turn that is being answered."""

    name: str
    plan: Mapping[str, Any]
    prompt: Prompt
    turn: int = 0
    age: int = 0

    @property
    def request(self) -> str:
        return f"{self.name}.{self.turn}"

    def ask(self, driver: Driver) -> None:
        sampling = replace(GREEDY, n=self.plan["choices"])
        driver.add(
            self.request, self.prompt, sampling, EXITS[self.plan["exits"]], self.plan["salt"]
        )
        self.age = 0

    def go_on(self, driver: Driver) -> None:
        """If the turn is over, or is given up now, the next one is asked."""
        state = driver.states[self.request]
        self.age += 1
        if self.plan["patience"] == (self.turn, self.age) and not state.done:
            driver.core.abort(state)
        if state.done and self.turn + 1 < TURNS:
            last = state.choices[-1].token_ids
            self.prompt = going_on(self.prompt, last, self.plan["question"] + self.turn)
            self.turn += 1
            self.ask(driver)


def check(driver: Driver, answers: Answers, talk: Talk) -> None:
    """Every turn against an engine without a cache."""
    plan = talk.plan
    for turn in range(talk.turn + 1):
        name = f"{talk.name}.{turn}"
        state = driver.states[name]
        ids = tuple(state.request.prompt.token_ids)
        shape = (plan["picture"], plan["images"], plan["gap"])
        tokens, cold = answers.of(plan["exits"], *shape, ids)
        for index, choice in enumerate(state.choices):
            whole = choice.finish_reason is FinishReason.LENGTH
            told = driver.tokens(name, index)
            assert told == (tokens if whole else tokens[: len(told)]), (name, index)
        if all(each.finish_reason is FinishReason.LENGTH for each in state.choices):
            stats = driver.core.stats_of(state)
            assert stats.exit_layer == cold.exit_layer
            assert stats.tokens_per_layer == cold.tokens_per_layer
            assert stats.kv_tokens_per_layer == cold.kv_tokens_per_layer


talks = st.fixed_dictionaries(
    {
        "picture": st.integers(0, 1),
        "question": st.integers(0, 1),
        "images": st.integers(1, 2),
        "gap": st.sampled_from([0, 2]),
        "exits": st.sampled_from(sorted(EXITS)),
        "salt": st.sampled_from(["", "", "", "bob"]),
        "choices": st.sampled_from([1, 1, 2]),
        "joins": st.integers(0, 12),
        "patience": st.tuples(st.integers(0, TURNS), st.integers(0, 8)),
    }
)
limits = st.fixed_dictionaries(
    {
        "pages": st.sampled_from([56, 80, 400]),
        "memory": st.sampled_from([20_000, ROOM]),
        "max_num_seqs": st.sampled_from([3, 64]),
        "max_step_rows": st.sampled_from([8, 24, 1024]),
    }
)


def fail_at(adapter: Any, calls: Sequence[int]) -> None:
    """The layer calls with these numbers raise."""
    number = iter(range(10**6))

    def sometimes(*_: object) -> None:
        if next(number) in calls:
            raise Fault("now and then")

    adapter.on_layer = sometimes


@settings(max_examples=20)
@given(
    plans=st.lists(talks, min_size=2, max_size=5),
    limit=limits,
    paged=st.booleans(),
    faults=st.lists(st.integers(0, 150), max_size=3),
)
def test_any_conversations_are_answered_as_by_a_cold_engine(
    plans: Sequence[Mapping[str, Any]],
    limit: Mapping[str, Any],
    paged: bool,
    faults: Sequence[int],
    answers: Answers,
    tiny_model: dyvte.Model,
) -> None:
    model, adapter = tamper(tiny_model)
    fail_at(adapter, faults)
    driver = Reused(model, warm(**limit))
    if paged:
        core = driver.core
        pool = PagedCache(core.scheduler.ledger, 2, 8, torch.float32)
        core.runner.cache = core.prefixes._cache = pool
    open_talks: list[Talk] = []
    for now in range(400):
        for index, plan in enumerate(plans):
            if plan["joins"] == now:
                prompt = asking(plan["picture"], plan["question"], plan["images"], plan["gap"])
                open_talks.append(Talk(f"{index}", plan, prompt))
                open_talks[-1].ask(driver)
        driver.step()
        for talk in open_talks:
            talk.go_on(driver)
        if now > 12 and not driver.core.has_work:
            break
    else:
        raise AssertionError(f"still busy: {driver.core.scheduler}")
    for talk in open_talks:
        assert talk.turn == TURNS - 1
        check(driver, answers, talk)
    assert driver.core.prefixes.held <= limit["memory"]
    driver.check_empty()
