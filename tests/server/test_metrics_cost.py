"""Metrics cost next to nothing beside the steps that they count."""

from __future__ import annotations

import dyvte
from benchmarks.metrics_cost import measure
from dyvte.engine.build import build_core
from dyvte.engine.events import EngineRequest
from dyvte.params import SamplingParams
from tests import tiny

SAMPLING = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)


def test_observers_take_a_small_share_of_the_steps_even_of_a_tiny_model(
    tiny_model: dyvte.Model,
) -> None:
    """A step of a real model takes a hundred times as long, its metrics no longer (the share that
    ``benchmarks/metrics_cost.py`` measured is far below 1 %); the bound leaves room for a bad day.
    """
    requests = [EngineRequest(f"{i}", tiny.prompt(seed=i), SAMPLING) for i in range(8)]
    cost = measure(build_core(tiny_model), requests)
    assert cost.requests == 8
    assert cost.steps >= 12
    assert 0 < cost.share < 0.1
