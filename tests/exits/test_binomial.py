"""Exact binomial bounds, against values that stand in tables."""

from __future__ import annotations

import math

import pytest

from dyvte.exits.binomial import at_most, samples_needed, upper_bound


@pytest.mark.parametrize(("risk", "samples"), [(0.005, 598), (0.01, 299), (0.02, 149), (0.05, 59)])
def test_so_many_unchanged_answers_prove_a_risk(risk: float, samples: int) -> None:
    assert samples_needed(risk, 0.95) == samples
    assert upper_bound(0, samples, 0.95) <= risk < upper_bound(0, samples - 1, 0.95)


@pytest.mark.parametrize(
    ("k", "n", "upper"),
    # Clopper–Pearson, one-sided 95 %: the 0.95 quantile of Beta(k + 1, n − k).
    [(0, 10, 0.258866), (1, 10, 0.394163), (5, 10, 0.777559), (3, 100, 0.075711), (10, 10, 1.0)],
)
def test_upper_bounds_are_those_of_the_tables(k: int, n: int, upper: float) -> None:
    assert upper_bound(k, n, 0.95) == pytest.approx(upper, abs=1e-6)


@pytest.mark.parametrize(("k", "n", "risk"), [(0, 5, 0.3), (2, 5, 0.3), (7, 40, 0.11), (5, 5, 0.4)])
def test_the_p_value_is_the_sum_of_the_terms(k: int, n: int, risk: float) -> None:
    terms = [math.comb(n, i) * risk**i * (1 - risk) ** (n - i) for i in range(k + 1)]
    assert at_most(k, n, risk) == pytest.approx(sum(terms), rel=1e-12)


def test_the_bound_is_where_the_p_value_reaches_the_level() -> None:
    for k, n in ((0, 30), (4, 600), (60, 600), (900, 10_000)):
        assert at_most(k, n, upper_bound(k, n, 0.95)) == pytest.approx(0.05, rel=1e-9)


def test_the_ends_are_exact() -> None:
    assert at_most(3, 10, 0.0) == 1.0
    assert at_most(3, 10, 1.0) == 0.0
    assert at_most(10, 10, 0.5) == 1.0
    assert upper_bound(0, 0, 0.95) == 1.0


@pytest.mark.parametrize(
    ("k", "n", "risk"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 1.1), (1, 5, math.nan)]
)
def test_what_is_no_binomial_is_refused(k: int, n: int, risk: float) -> None:
    with pytest.raises(ValueError, match="no such binomial"):
        at_most(k, n, risk)


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.95), (1.0, 0.95), (0.1, 1.0)])
def test_no_number_of_samples_proves_certainty(risk: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        samples_needed(risk, confidence)
