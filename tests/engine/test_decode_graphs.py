"""Decode steps of fixed shape against the packed ones, their kernel emulated off CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dyvte
from dyvte import SamplingParams
from dyvte.engine.decode_graphs import DecodeGraphs, DecodeRow, buckets
from dyvte.varlen import VarlenAttention
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.test_core import EXITS, Alone, limits, prompt_of, requests
from tests.paged_kernel import paged_kernel


@pytest.fixture(scope="module")
def alone(tiny_model: dyvte.Model) -> Alone:
    return Alone(tiny_model)


def driven(model: dyvte.Model, **limit: Any) -> tuple[Driver, list[int]]:
    """A driver whose decodes go through fixed steps, and the rows of each that ran."""
    driver = Driver(model, small(**limit), VarlenAttention(paged_kernel))
    graphs = driver.core.runner.graphs
    assert graphs is not None
    ran: list[int] = []
    run = graphs.run

    def counted(rows: Sequence[DecodeRow]) -> torch.Tensor:
        ran.append(len(rows))
        return run(rows)

    graphs.run = counted  # type: ignore[method-assign]
    return driver, ran


@settings(max_examples=15)
@given(several=st.lists(requests, min_size=2, max_size=7), limit=limits)
def test_a_fixed_step_gives_the_tokens_of_alone(
    several: list[Mapping[str, Any]],
    limit: Mapping[str, Any],
    alone: Alone,
    tiny_model: dyvte.Model,
) -> None:
    """Sequences with their own exits come, go and are preempted between steps."""
    driver, ran = driven(tiny_model, **limit)
    for now in range(9):
        for index, request in enumerate(several):
            if request["joins"] == now:
                driver.add(f"r{index}", prompt_of(request), exits=EXITS[str(request["exits"])])
        driver.step()
    driver.run()
    for index, request in enumerate(several):
        assert driver.tokens(f"r{index}") == alone(request).token_ids
    assert ran
    driver.check_empty()


def test_choices_of_one_prompt_share_its_pages_and_keep_their_own(tiny_model: dyvte.Model) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=5, n=3, ignore_eos=True)
    told = []
    for attention in (None, VarlenAttention(paged_kernel)):
        driver = Driver(tiny_model, small(200), attention)
        driver.add("r", tiny.prompt(1), params, EXITS["2"])
        driver.run()
        told.append([driver.tokens("r", index) for index in range(3)])
        driver.check_empty()
    assert told[0] == told[1]


def test_rows_that_nobody_needs_touch_no_page_of_a_sequence(tiny_model: dyvte.Model) -> None:
    """Three sequences run in a bucket of four."""
    driver, ran = driven(tiny_model, pages=200)
    for index in range(3):
        driver.add(f"r{index}", tiny.prompt(index), GREEDY, EXITS["0"])
    while not ran:
        driver.step()
    cache = driver.core.runner.cache
    before = {
        (seq, layer): torch.stack(cache.rows(seq, layer))
        for seq in driver.ledger.sequences
        for layer in range(tiny.LAYERS)
    }
    driver.step()
    assert ran[-1] == 3
    for (seq, layer), held in before.items():
        now = torch.stack(cache.rows(seq, layer))
        assert torch.equal(now[:, :, : held.shape[2]], held)
        assert now.shape[2] == held.shape[2] + 1


def test_buffers_are_not_written_before_their_last_copy_is_done(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is run again sequence by sequence fills them twice before a token is read."""
    said: list[str] = []

    class Noted:
        def __init__(self, device: torch.device) -> None:
            said.append("sent")

        def wait(self) -> None:
            said.append("copied")

    monkeypatch.setattr("dyvte.engine.decode_graphs.Mark", Noted)
    driver, _ = driven(tiny_model, pages=200)
    driver.add("r", tiny.prompt(0))
    driver.run()
    decodes = GREEDY.max_tokens - 1 if GREEDY.max_tokens else 0
    assert said == ["sent"] + ["copied", "sent"] * decodes


def test_without_an_attention_over_pages_there_are_no_graphs(tiny_model: dyvte.Model) -> None:
    assert Driver(tiny_model, small(40)).core.runner.graphs is None


def test_an_operator_may_do_without(tiny_model: dyvte.Model) -> None:
    config = small(40, cuda_graphs=False)
    assert Driver(tiny_model, config, VarlenAttention(paged_kernel)).core.runner.graphs is None


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_buckets_end_where_the_seats_end(most: int, sizes: list[int]) -> None:
    assert buckets(most) == sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replays_on_cuda_compute_what_the_step_computes(tiny_model: dyvte.Model) -> None:
    """bfloat16: the captured forward and the eager one are the same kernels in the same order.

    A library may choose another of its kernels while it is captured, so bits may differ.
    """
    model = dyvte.load(tiny_model.name, device="cuda", dtype="bfloat16")
    driver = Driver(model, small(4000, page_size=256))
    graphs = driver.core.runner.graphs
    assert isinstance(graphs, DecodeGraphs)
    graphs.capture()
    for index in range(3):
        driver.add(f"r{index}", tiny.prompt(index), GREEDY, EXITS["2"])
    while len(driver.core.scheduler.running) < 3:
        driver.step()
    driver.step()
    step, replay = graphs._bucket(4)
    with torch.inference_mode():
        torch.testing.assert_close(replay(), step.compute(), atol=0.05, rtol=0.02)
