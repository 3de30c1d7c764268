"""The engine's one promise: whatever shares the batch, each request gets its own answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from dyvte import ExitOptions, OptionError, PromptError, PruneOptions, SamplingParams
from dyvte.engine.build import EngineConfig
from dyvte.params import FinishReason
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small

OFF = ExitOptions(policy="off")
EXITS = {
    "off": OFF,
    "0": ExitOptions(policy="fixed", exit_layer=0),
    "2": ExitOptions(policy="fixed", exit_layer=2),
    "last": ExitOptions(policy="fixed", exit_layer=3),
    "gate": ExitOptions(policy="gate", aggressiveness=0.5),
    "gate .9": ExitOptions(policy="gate", aggressiveness=0.9, min_layer=1),
    "fastv": ExitOptions(policy="off", prune=PruneOptions("fastv", layer=1, ratio=0.5)),
    "fastv, then 2": ExitOptions(
        policy="fixed", exit_layer=2, prune=PruneOptions("fastv", layer=1, ratio=0.5)
    ),
    "pyramiddrop, then gate": ExitOptions(
        aggressiveness=0.6, prune=PruneOptions("pyramiddrop", ratio=0.4)
    ),
}
requests = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 4),
        "images": st.integers(0, 2),
        "after": st.integers(0, 6),
        "exits": st.sampled_from(sorted(EXITS)),
        "joins": st.integers(0, 8),
    }
)
limits = st.fixed_dictionaries(
    {
        "pages": st.sampled_from([32, 40, 64, 400]),
        "max_num_seqs": st.sampled_from([1, 3, 64]),
        "max_step_rows": st.sampled_from([8, 24, 1024]),
    }
)


def prompt_of(request: Mapping[str, Any]) -> dyvte.Prompt:
    return tiny.prompt(request["seed"], images=request["images"], after=request["after"])


class Alone:
    """What each request gets by itself, remembered between examples."""

    def __init__(self, model: dyvte.Model) -> None:
        self.model = model
        self.result = cache(self._result)

    def _result(self, seed: int, images: int, after: int, exits: str) -> dyvte.Result:
        prompt = tiny.prompt(seed, images=images, after=after)
        return tiny.alone(self.model, prompt, sampling=GREEDY, exits=EXITS[exits])

    def __call__(self, request: Mapping[str, Any]) -> dyvte.Result:
        return self.result(**{key: value for key, value in request.items() if key != "joins"})


@pytest.fixture(scope="module")
def alone(tiny_model: dyvte.Model) -> Alone:
    return Alone(tiny_model)


@settings(max_examples=15)
@given(several=st.lists(requests, min_size=2, max_size=7), limit=limits)
def test_requests_that_join_midway_get_the_tokens_of_alone(
    several: list[Mapping[str, Any]],
    limit: Mapping[str, Any],
    alone: Alone,
    tiny_model: dyvte.Model,
) -> None:
    """Small pools preempt, small steps cut prefills by layers: neither may show."""
    driver = Driver(tiny_model, small(**limit))
    for now in range(9):
        for index, request in enumerate(several):
            if request["joins"] == now:
                driver.add(f"r{index}", prompt_of(request), exits=EXITS[str(request["exits"])])
        driver.step()
    driver.run()
    for index, request in enumerate(several):
        expected = alone(request)
        assert driver.tokens(f"r{index}") == expected.token_ids
        stats = driver.core.stats_of(driver.states[f"r{index}"])
        assert stats.exit_layer == expected.exit_layer
        assert stats.flops == expected.flops
        assert list(stats.kv_tokens_per_layer) == expected.kv_tokens_per_layer
    driver.check_empty()


@pytest.mark.parametrize("exits", ["gate", "fastv", "fastv, then 2"])
def test_a_tiny_pool_preempts_the_youngest_and_nobody_notices(
    exits: str, tiny_model: dyvte.Model
) -> None:
    """Recomputed with generated tokens behind it, a rule would rank the image anew."""
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    driver = Driver(tiny_model, small(44))
    preempted: list[int] = []
    plan = driver.core.scheduler.plan

    def spy(*asked: Any) -> object:
        chosen = plan(*asked)
        preempted.extend(chosen.preempted)
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(driver.core.scheduler), "plan", lambda self, *asked: spy(*asked))
        for index in range(4):
            driver.add(f"r{index}", tiny.prompt(index), params, EXITS[exits])
        driver.run()
    assert preempted
    assert 0 not in preempted
    for index in range(4):
        one = tiny.alone(tiny_model, tiny.prompt(index), sampling=params, exits=EXITS[exits])
        assert driver.tokens(f"r{index}") == one.token_ids
        stats = driver.core.stats_of(driver.states[f"r{index}"])
        assert stats.exit_layer == one.exit_layer
        assert stats.kept_visual == one.kept_visual
        assert stats.flops == one.flops
    driver.check_empty()


def test_an_exit_returns_pages_for_others_to_use(tiny_model: dyvte.Model) -> None:
    held = {}
    for name in ("off", "0"):
        driver = Driver(tiny_model, small(200))
        driver.add("r", tiny.prompt(0, images=2), exits=EXITS[name])
        driver.step()
        held[name] = driver.ledger.num_pages - driver.ledger.num_free
    assert held["0"] < held["off"]


@pytest.mark.parametrize("rows", [8, 1024], ids=["cut by layers", "whole"])
@pytest.mark.parametrize("steps", range(9))
def test_abort_at_any_step_returns_every_page(
    steps: int, rows: int, alone: Alone, tiny_model: dyvte.Model
) -> None:
    driver = Driver(tiny_model, small(200, max_step_rows=rows))
    several: list[dict[str, Any]] = [
        {"seed": 1, "images": 0, "after": 3, "exits": "off"},
        {"seed": 2, "images": 1, "after": 4, "exits": "2"},
        {"seed": 3, "images": 2, "after": 4, "exits": "gate"},
    ]
    driver.add("r0", prompt_of(several[0]))
    driver.step()
    for index in (1, 2):
        request = several[index]
        driver.add(f"r{index}", prompt_of(request), exits=EXITS[str(request["exits"])])
    for _ in range(steps):
        driver.step()
    driver.core.abort(driver.states["r1"])
    driver.check_books()
    assert driver.reason("r1") in (FinishReason.ABORT, FinishReason.LENGTH)
    driver.run()
    for index in (0, 2):
        assert driver.tokens(f"r{index}") == alone(several[index]).token_ids
    driver.check_empty()


def test_aborting_everybody_leaves_nothing(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(64, max_step_rows=8))
    for index in range(5):
        driver.add(f"r{index}", tiny.prompt(index), SamplingParams(n=2, max_tokens=9))
    for _ in range(3):
        driver.step()
    for state in driver.states.values():
        driver.core.abort(state)
        driver.core.abort(state)
    driver.check_empty()
    assert not driver.core.has_work


def test_choices_of_one_prompt_share_its_prefill(tiny_model: dyvte.Model) -> None:
    prompt = tiny.prompt(3)
    params = SamplingParams(n=3, seed=7, max_tokens=8, ignore_eos=True, temperature=1.3)
    driver = Driver(tiny_model)
    driver.add("r", prompt, params, EXITS["gate"])
    driver.run()
    driver.check_empty()
    assert len({tuple(driver.tokens("r", index)) for index in range(3)}) == 3
    stats = driver.core.stats_of(driver.states["r"])
    first = SamplingParams(seed=7, max_tokens=8, ignore_eos=True, temperature=1.3)
    one = tiny.alone(tiny_model, prompt, sampling=first, exits=EXITS["gate"])
    assert driver.tokens("r", 0) == one.token_ids
    assert stats.flops.prefill == one.flops.prefill
    assert stats.flops.vision == one.flops.vision
    assert stats.flops.decode == 3 * one.flops.decode
    assert stats.completion_tokens == 24


@pytest.mark.parametrize("pages", [32, 36, 48, 64, 300])
def test_choices_do_not_depend_on_the_room_there_is(pages: int, tiny_model: dyvte.Model) -> None:
    """With pages short a fork waits and is computed anew from its tokens."""
    params = SamplingParams(n=2, seed=7, max_tokens=20, ignore_eos=True, temperature=1.3)
    roomy, tight = Driver(tiny_model), Driver(tiny_model, small(pages))
    for driver in (roomy, tight):
        for index in range(2):
            driver.add(f"r{index}", tiny.prompt(index), params, EXITS["gate"])
        driver.run()
        driver.check_empty()
    for name in ("r0", "r1"):
        for index in range(2):
            assert tight.tokens(name, index) == roomy.tokens(name, index)


def test_more_choices_than_fit_are_refused(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(32))
    with pytest.raises(OptionError, match="at most"):
        driver.add("r", tiny.prompt(0), SamplingParams(n=9))


def test_context_is_the_limit(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(40))
    prompt = tiny.prompt(0)
    state = driver.add("r", prompt, SamplingParams(max_tokens=None, ignore_eos=True))
    driver.run()
    assert state.layout.rows + len(driver.tokens("r")) == 64
    assert driver.reason("r") is FinishReason.LENGTH
    long = tiny.prompt(0, after=60)
    with pytest.raises(PromptError, match="context is 64"):
        driver.add("long", long)
    with pytest.raises(PromptError, match="60 new tokens"):
        driver.add("much", prompt, SamplingParams(max_tokens=60))


def test_a_longest_request_fits_the_smallest_pool(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(32))
    for index in range(3):
        params = SamplingParams(max_tokens=None, temperature=0, ignore_eos=True)
        driver.add(f"r{index}", tiny.prompt(index), params)
    driver.run()
    driver.check_empty()
    assert {driver.reason(f"r{i}") for i in range(3)} == {FinishReason.LENGTH}


@pytest.mark.parametrize("field", ["max_model_len", "kv_cache_memory", "max_num_seqs"])
def test_capacity_that_cannot_be_is_refused(field: str, tiny_model: dyvte.Model) -> None:
    values: dict[str, Any] = {"max_model_len": 10**6, "kv_cache_memory": 1000, "max_num_seqs": 0}
    with pytest.raises(OptionError, match=field):
        Driver(tiny_model, EngineConfig(**{field: values[field]}))


def test_a_pool_is_no_larger_than_its_seats_can_fill(tiny_model: dyvte.Model) -> None:
    """Left to itself it took 40 % of the memory: half a million pages for a model of one MB."""
    driver = Driver(tiny_model, EngineConfig(max_num_seqs=3, page_size=64))
    assert driver.ledger.num_pages == 3 * tiny.LAYERS * tiny.CONTEXT // 64


def test_a_request_leaves_no_picture_behind(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model)
    state = driver.add("r", tiny.prompt(0))
    driver.step()
    assert state.image_rows is not None
    driver.run()
    assert state.image_rows is None


def test_snapshot_counts_what_is_resident(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model, small(400))
    driver.add("off", tiny.prompt(0), exits=OFF)
    driver.add("exit", tiny.prompt(1), exits=EXITS["0"])
    assert driver.core.snapshot().waiting == 2
    driver.step()
    snapshot = driver.core.snapshot()
    assert (snapshot.running, snapshot.waiting) == (2, 0)
    assert snapshot.kv_usage > 0
    row_bytes = 2 * 2 * 8 * torch.float32.itemsize
    assert snapshot.kv_bytes_saved == 3 * tiny.VISUAL * row_bytes
    driver.run()
    assert driver.core.snapshot().kv_bytes_saved == 0


def test_rows_pruned_before_the_first_layer_are_saved_as_well(tiny_model: dyvte.Model) -> None:
    """The yardstick was the longest layer: where none held the picture, nothing was saved."""
    driver = Driver(tiny_model, small(400))
    prune = PruneOptions("divprune", ratio=1.0)
    state = driver.add("r", tiny.prompt(0), exits=ExitOptions(policy="off", prune=prune))
    driver.step()
    saved = tiny.LAYERS * tiny.VISUAL * 2 * 2 * 8 * torch.float32.itemsize
    assert driver.core.snapshot().kv_bytes_saved == saved
    driver.run()
    stats = driver.core.stats_of(state)
    assert stats.kv_bytes_saved == saved
    assert stats.prune == "divprune"


def test_logits_are_asked_of_the_head_once_per_sequence(tiny_model: dyvte.Model) -> None:
    """Prefills and decodes of one step share one packed forward."""
    driver = Driver(tiny_model)
    driver.add("a", tiny.prompt(0))
    driver.step()
    driver.add("b", tiny.prompt(1))
    driver.step()
    rows = driver.states["b"].layout.rows
    assert (driver.core.last_step.prefill_rows, driver.core.last_step.decode_rows) == (rows, 1)
