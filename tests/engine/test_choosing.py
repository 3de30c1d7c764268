"""Log-probabilities that a step computes for all rows at once are those of each row alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import SamplingParams
from dyvte.engine import choosing
from dyvte.engine.events import TokenLogprobs
from tests import tiny
from tests.engine.driver import Driver, small

COUNTS = (None, 0, 3, 3, 7)
Heard = dict[int, list[TokenLogprobs | None]]


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def params(count: int | None) -> SamplingParams:
    return SamplingParams(max_tokens=4, temperature=0.8, seed=1, ignore_eos=True, logprobs=count)


def told(model: dyvte.Model, *indices: int) -> Heard:
    """What some of the requests hear of their tokens, all in one engine."""
    driver = Driver(model, small(400))
    for index in indices:
        driver.add(f"{index}", tiny.prompt(index), params(COUNTS[index]))
    driver.run()
    return {index: [each.logprobs for each in driver.events[f"{index}"]] for index in indices}


def same(found: Heard, expected: Heard) -> None:
    """But for float32's noise: products of more rows round otherwise."""
    assert found.keys() == expected.keys()
    for index, events in expected.items():
        for own, one in zip(found[index], events, strict=True):
            assert (own is None) is (one is None)
            if own is not None and one is not None:
                assert own.logprob == pytest.approx(one.logprob, abs=1e-4)
                assert [token for token, _ in own.top] == [token for token, _ in one.top]
                values = [value for _, value in one.top]
                assert [value for _, value in own.top] == pytest.approx(values, abs=1e-4)


def alone(model: dyvte.Model) -> Heard:
    return {index: told(model, index)[index] for index in range(len(COUNTS))}


def test_each_request_hears_as_many_as_it_asks_for_and_what_it_hears_alone(
    tiny_model: dyvte.Model,
) -> None:
    found = told(tiny_model, *range(len(COUNTS)))
    same(found, alone(tiny_model))
    for index, count in enumerate(COUNTS):
        for each in found[index]:
            assert each is None if count is None else each is not None
            if each is not None:
                assert len(each.top) == count
                assert each.logprob <= max((top for _, top in each.top), default=0.0)


@pytest.mark.usefixtures("quiet")
def test_without_memory_for_all_rows_they_are_computed_one_by_one(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, times = alone(tiny_model), []

    def short(logits: Tensor) -> Tensor:
        times.append(len(logits))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(choosing, "log_probs", short)
    same(told(tiny_model, *range(len(COUNTS))), expected)
    assert times
