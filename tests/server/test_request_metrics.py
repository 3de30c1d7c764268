"""Sums over requests, held against the requests: FLOPs by phase, cache and policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from dyvte.engine.stats import Ending, ExitOutcome, RequestStats, Timings, UnfinishedStats
from dyvte.flops import FlopsReport
from server.metric_families import Families
from server.request_metrics import PHASES, RequestMetrics

LAYERS = 4
PLAIN = RequestStats(
    policy="gate",
    outcome=ExitOutcome.EXITED,
    num_layers=LAYERS,
    prompt_tokens=20,
    completion_tokens=3,
    visual_tokens=9,
    flops=FlopsReport(vision=100, prefill=70, decode=30, gates=4, head=6, baseline=300),
    timings=Timings(),
    tokens_per_layer=(20, 20, 11, 11),
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> RequestMetrics:
    return RequestMetrics(Families(registry, "m"), ("gate", "off"), LAYERS)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, {"model_name": "m", **labels})
    assert found is not None, (name, labels)
    return found


def executed(registry: CollectorRegistry) -> dict[str, float]:
    return {p: value(registry, "dyvte_flops_total", phase=p, policy="gate") for p in PHASES}


@pytest.mark.parametrize(
    ("avoided", "vision", "prefill", "image", "prefix"),
    [(0, 100, 70, 0, 0), (60, 40, 70, 60, 0), (100, 0, 70, 100, 0), (125, 0, 45, 100, 25)],
)
def test_what_a_cache_spared_is_not_executed_and_has_a_counter_of_its_own(
    registry: CollectorRegistry,
    metrics: RequestMetrics,
    avoided: int,
    vision: int,
    prefill: int,
    image: int,
    prefix: int,
) -> None:
    flops = replace(PLAIN.flops, avoided_by_cache=avoided)
    metrics.count(replace(PLAIN, flops=flops))
    by_phase = executed(registry)
    assert (by_phase["vision"], by_phase["prefill"]) == (vision, prefill)
    assert sum(by_phase.values()) == flops.executed
    caches = [value(registry, "dyvte_flops_avoided_total", cache=c) for c in ("image", "prefix")]
    assert caches == [image, prefix]
    saved = value(registry, "dyvte_flops_saved_total", policy="gate")
    assert saved == flops.saved == 90, "what a cache spares is no saving of an exit"


def test_saved_and_overspent_never_cancel_within_a_counter(
    registry: CollectorRegistry, metrics: RequestMetrics
) -> None:
    metrics.count(PLAIN)
    metrics.count(replace(PLAIN, flops=replace(PLAIN.flops, baseline=190)))
    assert value(registry, "dyvte_flops_saved_total", policy="gate") == 90
    assert value(registry, "dyvte_flops_overspent_total", policy="gate") == 20
    assert value(registry, "dyvte_flops_baseline_total", policy="gate") == 490


def test_sums_of_integers_are_exact_far_beyond_a_days_worth(
    registry: CollectorRegistry, metrics: RequestMetrics
) -> None:
    odd = 2**43 + 1  # a request of a 7B model, and a bit that a rounded sum would lose
    flops = FlopsReport(prefill=odd, baseline=odd)
    for _ in range(1000):
        metrics.count(replace(PLAIN, flops=flops))
    assert executed(registry)["prefill"] == 1000 * odd < 2**53


def test_small_aggressiveness_is_told_apart(
    registry: CollectorRegistry, metrics: RequestMetrics
) -> None:
    for each in (0.0015, 0.004, 0.015):
        metrics.count(replace(PLAIN, aggressiveness=each))
    name = "dyvte_request_aggressiveness_bucket"
    counts = [value(registry, name, le=le) for le in ("0.001", "0.002", "0.005", "0.02")]
    assert counts == [0, 1, 2, 3]


def test_a_label_that_was_not_declared_is_an_error_and_no_new_series(
    registry: CollectorRegistry, metrics: RequestMetrics
) -> None:
    before = sum(len(family.samples) for family in registry.collect())
    with pytest.raises(KeyError):
        metrics.count(replace(PLAIN, policy="nobody"))
    assert sum(len(family.samples) for family in registry.collect()) == before


def test_a_request_without_an_answer_is_no_part_of_the_account_of_answers(
    registry: CollectorRegistry, metrics: RequestMetrics
) -> None:
    flops = FlopsReport(vision=10, prefill=30, baseline=100, avoided_by_cache=10)
    metrics.count_unfinished(UnfinishedStats("gate", Ending.ABORTED, flops))
    counted = {"aborted": (1, 30, 60), "failed": (0, 0, 0)}
    for ending, (requests, executed_for_them, saved) in counted.items():
        names = {"ending": ending, "policy": "gate"}
        assert value(registry, "dyvte_unfinished_requests_total", ending=ending) == requests
        assert value(registry, "dyvte_unfinished_flops_total", **names) == executed_for_them
        assert value(registry, "dyvte_unfinished_flops_saved_total", **names) == saved
    assert not any(executed(registry).values())
    assert value(registry, "dyvte_flops_saved_total", policy="gate") == 0
