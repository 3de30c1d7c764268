"""What an earlier request about the same images computed is taken over, and nobody's answer, exit,
trace or account changes by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

import dyvte
from dyvte import ExitOptions, PruneOptions
from dyvte.attention import DenseAttention
from dyvte.engine.build import EngineConfig, build_core
from dyvte.kv_cache import PagedCache
from tests import tiny
from tests.engine.driver import GREEDY, PAGE, PAGE_BYTES, Driver
from tests.engine.reuse import EXITS, Cold, Reused, asking, warm
from tests.fakes import tamper
from tests.test_flop_counter import counted


@pytest.fixture(scope="module")
def cold(tiny_model: dyvte.Model) -> Cold:
    return Cold(tiny_model)


@pytest.mark.parametrize(("images", "gap"), [(1, 0), (2, 1), (2, 0), (3, 4)])
@pytest.mark.parametrize("second", sorted(EXITS))
@pytest.mark.parametrize("first", ["off", "0", "2", "3", "gate"])
def test_a_second_question_gets_the_answer_of_a_cold_engine(
    first: str, second: str, images: int, gap: int, cold: Cold, tiny_model: dyvte.Model
) -> None:
    """Exits above, at and below the earlier one; a third question finds what the second left."""
    driver = Reused(tiny_model, warm())
    for question, exits in enumerate((first, second, first)):
        driver.ask(f"{question}", asking(0, question, images, gap), exits)
        stats = cold.same(driver, f"{question}", exits, 0, question, images, gap)
        assert stats.prefix_hit is (question > 0)
        assert stats.cached_tokens == (0 if question == 0 else 3 + 9 * images + gap * (images - 1))
    driver.check_empty()


def test_a_hit_runs_neither_the_tower_nor_the_prefix(cold: Cold, tiny_model: dyvte.Model) -> None:
    model, adapter = tamper(tiny_model)
    driver = Reused(model, warm())
    ran: list[int] = []
    adapter.on_layer = lambda layer, hidden, _: ran.append(len(hidden))
    first = driver.ask("first", asking(0, 0), "off")
    assert adapter.encoded == 1
    ran.clear()
    again = driver.ask("again", asking(0, 1), "1")
    assert adapter.encoded == 1
    assert ran[: tiny.LAYERS] == [5] * tiny.LAYERS
    shape = tiny_model.adapter.decoder
    spared = [shape.layer(12, 17)] * 2 + [shape.layer(3, 8)] * 2
    assert first.flops.avoided_by_cache == 0
    assert again.flops.avoided_by_cache == again.flops.vision + sum(spared)


def test_a_deeper_question_runs_the_picture_above_the_earlier_exit_only(
    tiny_model: dyvte.Model,
) -> None:
    model, adapter = tamper(tiny_model)
    driver = Reused(model, warm())
    ran: list[int] = []
    driver.ask("shallow", asking(0, 0), "0")
    adapter.on_layer = lambda layer, hidden, _: ran.append(len(hidden))
    driver.ask("deeper", asking(0, 1), "2")
    assert ran[: tiny.LAYERS] == [5, 14, 14, 5]
    ran.clear()
    driver.ask("as deep", asking(0, 2), "2")
    assert ran[: tiny.LAYERS] == [5] * tiny.LAYERS
    ran.clear()
    driver.ask("to the end", asking(0, 3), "off")
    assert ran[: tiny.LAYERS] == [5, 5, 5, 14]
    assert len(driver.core.prefixes) == 1


def test_what_is_told_as_executed_is_what_torch_counts(plain_model: dyvte.Model) -> None:
    driver = Reused(plain_model, warm())
    driver.core.runner.attention = DenseAttention()
    driver.ask("first", asking(0, 0, images=2), "1")
    for index, exits in enumerate(("0", "1", "2", "off", "gate")):
        state = driver.add(f"{index}", asking(0, index, images=2), GREEDY, EXITS[exits])
        total = counted(driver.run)
        report = driver.core.stats_of(state).flops
        assert report.avoided_by_cache > report.vision
        assert report.executed == total


@pytest.mark.parametrize(
    "other",
    [
        {"cache_salt": "bob"},
        {"prompt": asking(1, 1)},
        {"prompt": replace(asking(0, 1), token_ids=[9, *asking(0, 1).token_ids])},
        {"prompt": replace(asking(0, 1), image_key=None)},
        {"prompt": replace(asking(0, 1), token_ids=asking(0, 1).token_ids[:5])},
        {"exits": ExitOptions(policy="off", prune=PruneOptions("fastv", layer=1, ratio=0.5))},
    ],
    ids=["holder", "picture", "text before", "no key", "nothing to ask with", "pruning"],
)
def test_another_prefix_or_a_rule_that_looks_shares_nothing(
    other: Mapping[str, Any], tiny_model: dyvte.Model
) -> None:
    driver = Reused(tiny_model, warm())
    for name, asked in (("first", {}), ("other", other)):
        wanted: dict[str, Any] = {"prompt": asking(0, 1), "cache_salt": "ann"} | dict(asked)
        driver.add(name, sampling=GREEDY, **wanted)
        driver.run()
    stats = driver.core.stats_of(driver.states["other"])
    assert not stats.prefix_hit
    assert (stats.cached_tokens, stats.flops.avoided_by_cache) == (0, 0)


def test_without_a_budget_nothing_is_kept(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, warm(memory=0))
    for name in ("first", "again"):
        driver.add(name, asking(0, 0))
        driver.run()
    assert driver.core.stats_of(driver.states["again"]).prefix_hit is None
    driver.check_empty()


def test_questions_that_arrive_together_compute_their_picture_once(
    cold: Cold, tiny_model: dyvte.Model
) -> None:
    driver = Reused(tiny_model, warm())
    for question in range(4):
        driver.add(f"{question}", asking(0, question), GREEDY, EXITS["2"])
    driver.step()
    assert driver.core.snapshot().running == 1
    driver.step()
    assert driver.core.snapshot().running == 4
    driver.run()
    for question in range(4):
        stats = cold.same(driver, f"{question}", "2", 0, question, 1, 1)
        assert stats.prefix_hit is (question > 0)
    driver.check_empty()


def test_nobody_waits_twice_for_a_prefix_that_is_not_kept(tiny_model: dyvte.Model) -> None:
    """Where the first left nothing the others went one by one, and packing was lost."""
    driver = Reused(tiny_model, warm(memory=1))
    for question in range(4):
        driver.add(f"{question}", asking(0, question), GREEDY, EXITS["2"])
    driver.step()
    assert driver.core.snapshot().running == 1
    driver.step()
    assert driver.core.snapshot().running == 4
    driver.run()
    assert len(driver.core.prefixes) == 0
    driver.check_empty()


def test_a_budget_of_one_entry_keeps_the_latest(tiny_model: dyvte.Model) -> None:
    driver = Reused(tiny_model, warm())
    driver.ask("one", asking(0, 0), "off")
    budget = driver.core.prefixes.held
    driver.check_empty()
    driver = Reused(tiny_model, warm(memory=budget))
    hits: list[bool | None] = []
    for picture in (0, 0, 1, 1, 0):
        stats = driver.ask(f"{len(hits)}", asking(picture, len(hits)), "off")
        hits.append(stats.prefix_hit)
        assert len(driver.core.prefixes) == 1
        assert driver.core.prefixes.held <= budget
    assert hits == [False, True, False, True, False]


@pytest.mark.parametrize("entries", [0, 1, 2, 5])
def test_states_outside_the_pool_stay_within_their_share(
    entries: int, cold: Cold, tiny_model: dyvte.Model
) -> None:
    """Those of running requests, too; who finds no room is answered and not kept."""
    driver = Reused(tiny_model, warm())
    driver.ask("one", asking(0, 0), "0")
    share = entries * driver.core.prefixes.state_bytes
    driver.check_empty()
    driver = Reused(tiny_model, warm())
    prefixes = driver.core.prefixes
    prefixes.max_state_bytes = share
    for name in ("a", "b"):
        for picture in range(5):
            driver.add(f"{name}{picture}", asking(picture, 0), GREEDY, EXITS["0"])
        while driver.core.has_work:
            driver.step()
            assert prefixes.state_bytes <= share
    assert len(prefixes) == entries
    for name in ("a", "b"):
        for picture in range(5):
            cold.same(driver, f"{name}{picture}", "0", picture, 0, 1, 1)
    driver.check_empty()


def test_an_entry_keeps_no_more_memory_than_it_counts(tiny_model: dyvte.Model) -> None:
    """A view of no rows held the hidden states of the whole batch, layer after layer."""
    driver = Reused(tiny_model, warm())
    for images, gap in ((1, 0), (2, 2)):
        driver.ask(f"{images}", asking(0, 0, images, gap), "1")
    states = [
        state
        for entry in driver.core.prefixes._entries.values()
        for state in (*entry.between, entry.images)
        if state is not None
    ]
    assert sum(state.untyped_storage().nbytes() for state in states) == (
        driver.core.prefixes.state_bytes
    )
    driver.check_empty()


def test_the_pool_leaves_room_for_the_states_beside_it(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyvte.engine.build._free_bytes", lambda device: 1 << 20)
    bytes_of = {}
    for budget in (0, 1 << 18):
        config = EngineConfig(None, 1000, page_size=PAGE, prefix_cache_memory=budget)
        core = build_core(tiny_model, config)
        bytes_of[budget] = core.scheduler.ledger.num_pages * PAGE_BYTES
    (none, some) = bytes_of.values()
    assert none == 1 << 20
    assert some <= none - core.prefixes.max_state_bytes < some + PAGE_BYTES
    assert 0 < core.prefixes.max_state_bytes < 1 << 18


def test_what_is_kept_is_given_up_before_anybody_waits(tiny_model: dyvte.Model) -> None:
    """A pool of what is merely kept is empty to those who ask how full it is."""
    driver = Reused(tiny_model, warm(pages=48))
    for picture in range(3):
        driver.ask(f"{picture}", asking(picture, 0), "off")
    assert driver.core.snapshot().kv_usage == 0.0
    assert len(driver.ledger._free) < 48
    for picture in range(3, 6):
        driver.add(f"{picture}", asking(picture, 0), GREEDY)
    driver.step()
    assert driver.core.snapshot().running == 3
    driver.run()
    driver.check_empty()


def test_choices_are_forks_of_one_hit(cold: Cold, tiny_model: dyvte.Model) -> None:
    driver = Reused(tiny_model, warm())
    driver.ask("first", asking(0, 0), "0")
    several = replace(GREEDY, n=3)
    driver.add("r", asking(0, 1), several, EXITS["2"])
    driver.run()
    tokens, _ = cold.of("2", 0, 1, 1, 1)
    assert [driver.tokens("r", index) for index in range(3)] == [tokens] * 3
    driver.check_empty()


def test_pages_are_taken_from_pages(cold: Cold, tiny_model: dyvte.Model) -> None:
    driver = Reused(tiny_model, warm())
    core = driver.core
    paged = PagedCache(core.scheduler.ledger, 2, 8, torch.float32)
    core.runner.cache = core.prefixes._cache = paged
    for question, exits in enumerate(("0", "2", "gate", "off", "1")):
        driver.ask(f"{question}", asking(0, question, images=2, gap=3), exits)
        cold.same(driver, f"{question}", exits, 0, question, 2, 3)
    driver.check_empty()
