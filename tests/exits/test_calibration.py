"""The promise: with the stated confidence the true risk is at most the one that was asked."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from dyvte.exits.binomial import at_most, upper_bound
from dyvte.exits.calibration import Calibration, Curve, Point, grid, measured

SETS, SAMPLES = 2_000, 600
RISKS = (0.005, 0.01, 0.02, 0.05)
# What the settings of a policy really do, from careful to bold.
TRUE_RISK = np.geomspace(2e-4, 0.4, 60)


@cache
def bound(k: int, n: int) -> float:
    return upper_bound(k, n, 0.95)


@cache
def point(setting: int, k: int, n: int) -> Point:
    return Point(setting, k, bound(k, n))


def curve(changed: list[int], n: int) -> Curve:
    return Curve(n, tuple(point(i, k, n) for i, k in enumerate(changed)))


def exceeds_allowed(count: int) -> bool:
    """More often than 5 % of the sets, beyond three standard deviations of the simulation."""
    return count > SETS * 0.05 + 3 * math.sqrt(SETS * 0.05 * 0.95)


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("nested", [True, False])
def test_realised_risk_exceeds_the_promise_no_more_often_than_allowed(
    risk: float, nested: bool
) -> None:
    """Nested: who is changed by a careful setting is changed by every bolder one as well."""
    draw = np.random.default_rng(7)
    true_risk = TRUE_RISK if nested else draw.permuted(TRUE_RISK[:40])
    exceeded, realised = 0, []
    for _ in range(SETS):
        hits = draw.random((SAMPLES, 1 if nested else len(true_risk))) < true_risk
        chosen = curve([int(k) for k in hits.sum(0)], SAMPLES).boldest(risk)
        realised.append(true_risk[int(chosen.setting)] if chosen else 0.0)
        exceeded += realised[-1] > risk
    assert not exceeds_allowed(exceeded)
    if nested:
        assert exceeded > 0  # or the test could not see a bound that is too loose
        assert np.mean(realised) > risk / 8


def test_choosing_by_the_point_estimate_breaks_the_promise() -> None:
    """What the bound is for: the same simulation without it exceeds in about half of the sets."""
    draw, exceeded = np.random.default_rng(7), 0
    for _ in range(SETS):
        share = (draw.random((SAMPLES, 1)) < TRUE_RISK).mean(0)
        held = TRUE_RISK[np.minimum.accumulate(share <= 0.02)]
        exceeded += bool(len(held)) and held[-1] > 0.02
    assert exceeds_allowed(exceeded)


def test_a_fixed_sequence_stops_at_the_first_failure() -> None:
    found = curve([0, 1, 40, 0, 0], 600).boldest(0.02)
    assert found is not None
    assert found.setting == 1


def test_boldest_says_what_the_p_values_say() -> None:
    changed, n = [0, 0, 2, 3, 7, 9, 14, 30, 80], 600
    for risk in (*RISKS, 0.2):
        passing = [at_most(k, n, risk) <= 0.05 for k in changed]
        expected = passing.index(False) - 1 if False in passing else len(passing) - 1
        found = curve(changed, n).boldest(risk)
        assert (-1 if found is None else found.setting) == expected


def test_too_few_samples_prove_nothing() -> None:
    few = curve([0, 0, 0], 148)
    assert few.boldest(0.02) is None
    assert few.lowest_risk(0.95) == pytest.approx(0.02004, abs=1e-5)
    assert curve([0], 149).boldest(0.02) is not None


def test_the_grid_goes_from_careful_to_bold_through_the_papers_rule() -> None:
    settings = grid()
    assert list(settings) == sorted(set(settings))
    assert 0.5 in settings
    assert settings[0] > 0.0
    assert settings[-1] == 1.0
    margins = [math.log((1 - a) / a) for a in settings if 0.05 < a < 0.95]
    assert max(a - b for a, b in pairwise(margins)) < 0.15


def columns(settings: list[float], changed: list[int], exits: list[tuple[int, ...]]) -> Curve:
    zeros = [0.0] * len(settings)
    return measured(settings, changed, 100, 0.95, zeros, zeros, exits)


def test_neighbours_that_decide_alike_are_one_point_but_one_half_stays() -> None:
    same, other = (0, 100), (10, 90)
    found = columns([0.1, 0.2, 0.5, 0.6, 0.7], [0, 0, 0, 0, 1], [same, same, same, same, other])
    assert [each.setting for each in found.points] == [0.1, 0.5, 0.7]


def test_a_stored_bound_never_promises_more() -> None:
    (stored,) = columns([0.1], [3], [(0, 100)]).points
    assert 0 <= stored.upper - bound(3, 100) <= 1e-6


def test_between_two_points_counts_the_more_careful_one() -> None:
    ahead = Curve(9, (Point(0.2, 0, 0.1), Point(0.5, 1, 0.2)))
    assert [ahead.at(a) for a in (0.1, 0.2, 0.49, 0.5, 1.0)] == [
        None,
        ahead.points[0],
        ahead.points[0],
        ahead.points[1],
        ahead.points[1],
    ]
    layers = Curve(9, (Point(5, 0, 0.1), Point(3, 1, 0.2)))
    assert [layers.at(e) for e in (6, 5, 4, 3, 0)] == [
        None,
        layers.points[0],
        layers.points[0],
        layers.points[1],
        layers.points[1],
    ]


def test_a_calibration_survives_json() -> None:
    gate = Curve(600, (Point(0.3, 2, 0.01, 0.4, 0.38, (500, 90, 10)), Point(0.5, 9, 0.03)))
    whole = Calibration(
        0.95, {"gate": {"single": gate}}, "gate", 48, "abc", {"seed": 0, "share": 0.4}
    )
    again = Calibration.of(json.loads(json.dumps(whole.as_json())))
    assert again == whole
    assert again.curve("gate", conversation=False) == gate
    assert again.curve("gate", conversation=True) is None
    assert again.curve("state", conversation=False) is None


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"confidence": 0.95, "curves": []},
        {"confidence": 0.95, "curves": {"gate": {"single": {"samples": 3}}}},
        {"confidence": 0.95, "curves": {"gate": {"single": {"samples": 3, "points": []}}}},
        {"confidence": 0.95, "curves": {}, "more": 1},
    ],
)
def test_what_is_no_calibration_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a calibration"):
        Calibration.of(broken)
