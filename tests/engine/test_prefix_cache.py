"""What an earlier request about the same images computed is taken over, and nobody's answer, exit,
trace or account changes by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from dyvte import ExitOptions, PruneOptions
from dyvte.attention import DenseAttention
from dyvte.engine.image_cache import content_key
from dyvte.engine.stats import RequestStats
from dyvte.kv_cache import PagedCache
from dyvte.prompt import IMAGE, Prompt
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.fakes import Fault, tamper
from tests.test_flop_counter import counted

ROOM = 1 << 24
EXITS = {
    "off": ExitOptions(policy="off"),
    **{str(i): ExitOptions(policy="fixed", exit_layer=i) for i in range(tiny.LAYERS)},
    "gate": ExitOptions(policy="gate", aggressiveness=0.5),
    "gate .9": ExitOptions(policy="gate", aggressiveness=0.9, min_layer=1),
    "gate .2": ExitOptions(policy="gate", aggressiveness=0.2),
}


def asking(picture: int, question: int, images: int = 1, gap: int = 1) -> Prompt:
    """A question (5 ids) about some pictures with ``gap`` ids of text between them."""
    draw = torch.Generator().manual_seed(picture)
    pixels = torch.randn(images, 3, tiny.SIDE, tiny.SIDE, generator=draw)
    ids = [tiny.BOS, 17, 18]
    for index in range(images):
        ids += [*([20 + index] * gap if index else []), IMAGE]
    words = torch.Generator().manual_seed(1000 + question)
    ids += torch.randint(5, tiny.VOCAB - 3, (5,), generator=words).tolist()
    shown = {"pixel_values": pixels}
    return Prompt(ids, shown, image_key=content_key(shown))


def warm(pages: int = 400, memory: int = ROOM, **limits: Any) -> Any:
    return small(pages, prefix_cache_memory=memory, max_model_len=96, **limits)


class Reused(Driver):
    """A driver whose books know what is merely kept."""

    def check_empty(self) -> None:
        self.core.prefixes.clear()
        assert not self.core.prefixes._keys
        assert not self.ledger._kept
        super().check_empty()

    def ask(self, name: str, prompt: Prompt, exits: str, salt: str = "") -> RequestStats:
        """One request by itself, to its end."""
        state = self.add(name, prompt, GREEDY, EXITS[exits], salt)
        self.run()
        return self.core.stats_of(state)


class Cold:
    """What each request gets on an engine without a cache, remembered between examples."""

    def __init__(self, model: dyvte.Model) -> None:
        self.model = model
        self.of = cache(self._of)

    def _of(
        self, exits: str, picture: int, question: int, images: int, gap: int
    ) -> tuple[list[int], RequestStats]:
        driver = Driver(self.model, small(400, max_model_len=96))
        prompt = asking(picture, question, images, gap)
        state = driver.add("r", prompt, GREEDY, EXITS[exits])
        driver.run()
        return driver.tokens("r"), driver.core.stats_of(state)

    def same(self, driver: Driver, name: str, exits: str, *asked: int) -> RequestStats:
        """Check that ``name`` got what it gets without a cache; its account."""
        tokens, cold = self.of(exits, *asked)
        stats = driver.core.stats_of(driver.states[name])
        assert driver.tokens(name) == tokens
        assert stats.exit_layer == cold.exit_layer
        assert stats.tokens_per_layer == cold.tokens_per_layer
        assert stats.kv_tokens_per_layer == cold.kv_tokens_per_layer
        assert stats.kv_bytes == cold.kv_bytes
        assert stats.flops == replace(cold.flops, avoided_by_cache=stats.flops.avoided_by_cache)
        assert torch.allclose(
            torch.tensor(stats.gate_logits), torch.tensor(cold.gate_logits), atol=1e-4
        )
        return stats


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


def test_what_is_told_as_executed_is_what_torch_counts(tiny_model: dyvte.Model) -> None:
    driver = Reused(tiny_model, warm())
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


requests = st.fixed_dictionaries(
    {
        "picture": st.integers(0, 1),
        "question": st.integers(0, 3),
        "images": st.integers(1, 2),
        "gap": st.sampled_from([0, 2]),
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
    shape = ("picture", "question", "images", "gap")
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
