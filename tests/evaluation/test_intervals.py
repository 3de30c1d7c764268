"""Paired differences, against values computed by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from dyvte.evaluation.intervals import paired_difference


def test_no_change_in_few_samples_proves_little() -> None:
    value, low, high = paired_difference(0, 0, 40)
    assert value == 0
    assert low == pytest.approx(-high)
    assert 0.04 < high < 0.05  # 1.96 · √1 / 42


def test_no_samples_tell_nothing() -> None:
    assert paired_difference(0, 0, 0) == (0.0, -1.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    gain, loss, count = 0.02, 0.035, 400
    tables = draws.multinomial(count, [gain, loss, 1 - gain - loss], size=4000)
    held = 0
    for gained, lost, _ in tables:
        _, low, high = paired_difference(int(gained), int(lost), count)
        held += low <= gain - loss <= high
    assert held / len(tables) > 0.94
