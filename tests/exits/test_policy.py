"""When a policy fires: the threshold, its edges, and the layers it may ask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyvte.exits.policy import ExitPolicy, Fixed, Gate, GateReading, Off, threshold

ALL = frozenset(range(8))
NAN, INF = math.nan, math.inf
finite = st.floats(-20, 20, width=32)


def fires(aggressiveness: float, keep: float, leave: float) -> bool:
    return Gate(aggressiveness, ALL).decide(3, GateReading(keep, leave))


@given(keep=finite, leave=finite)
def test_half_is_the_papers_argmax(keep: float, leave: float) -> None:
    assert fires(0.5, keep, leave) == (leave > keep)


@given(a=st.floats(0.01, 0.99), keep=finite, leave=finite)
def test_a_gate_fires_iff_the_exits_probability_exceeds_one_minus_a(
    a: float, keep: float, leave: float
) -> None:
    margin = float(np.float32(leave) - np.float32(keep))
    border = math.log((1 - a) / a)
    if abs(margin - border) > 1e-5:
        assert fires(a, keep, leave) == (1 / (1 + math.exp(-margin)) > 1 - a)


@given(low=st.floats(0, 1), high=st.floats(0, 1), keep=finite, leave=finite)
def test_a_bolder_gate_never_keeps_what_a_shyer_one_dropped(
    low: float, high: float, keep: float, leave: float
) -> None:
    low, high = sorted((low, high))
    assert fires(high, keep, leave) >= fires(low, keep, leave)


@pytest.mark.parametrize(
    ("aggressiveness", "keep", "leave", "expected"),
    [
        (0.5, 1.0, 1.0, False),  # a tie keeps
        (0.0, -50.0, 50.0, False),  # 0 never fires
        (1.0, 50.0, -50.0, True),  # 1 fires on anything finite
        (1.0, 3e38, -3e38, False),  # the margin is -inf in float32: not above -inf
        (NAN, -50.0, 50.0, False),  # a NaN keeps, whoever brought it
        (1.0, NAN, 1.0, False),
        (1.0, 1.0, NAN, False),
        (1.0, INF, INF, False),
        (0.5, 1.0, 1.0 + 1e-9, False),  # equal in float32
        (1e-300, 0.0, 80.0, False),
        (1e-30, 0.0, 80.0, True),
    ],
)
def test_edges(aggressiveness: float, keep: float, leave: float, expected: bool) -> None:
    assert fires(aggressiveness, keep, leave) is expected


def test_thresholds_run_from_never_to_always() -> None:
    assert threshold(0.0) == np.inf
    assert threshold(0.5) == 0
    assert threshold(1.0) == -np.inf
    assert np.isnan(threshold(NAN))
    assert threshold(0.25).dtype == np.float32
    np.testing.assert_allclose(threshold(0.25), math.log(3), rtol=1e-6)


def asked(policy: ExitPolicy, layers: int = 8) -> list[int]:
    return [layer for layer in range(layers) if policy.may_fire(layer)]


def test_a_gate_asks_gated_layers_in_its_range_only() -> None:
    """A layer that is not asked costs nothing: no status, no gate, no device read."""
    assert asked(Gate(0.5, frozenset({1, 3, 5}))) == [1, 3, 5]
    assert asked(Gate(0.5, ALL, min_layer=2, max_layer=4)) == [2, 3, 4]
    assert asked(Gate(0.5, ALL, min_layer=6)) == [6, 7]
    assert asked(Gate(0.0, ALL)) == []


def test_a_gate_without_a_reading_keeps() -> None:
    assert not Gate(1.0, ALL).decide(0, None)


def test_fixed_exits_after_its_layer_and_off_never() -> None:
    assert asked(Fixed(5)) == [5]
    assert [Fixed(5).decide(layer, None) for layer in (4, 5, 6)] == [False, True, False]
    assert asked(Off()) == []
    assert not Off().decide(0, GateReading(-9, 9))


def test_policies_are_what_the_core_expects_of_one() -> None:
    for policy in (Off(), Fixed(1), Gate(0.5, ALL)):
        assert isinstance(policy, ExitPolicy)


@pytest.mark.parametrize("pair", [(NAN, 0.0), (0.0, NAN), (NAN, NAN)])
def test_a_reading_knows_that_it_is_none(pair: tuple[float, float]) -> None:
    assert GateReading(*pair).is_nan
    assert not GateReading(0.0, INF).is_nan
