"""The arithmetic of ``benchmarks/calibration_holds.py`` on counts made up here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.promise import Counts, allowed, choose, kept

TRUE = np.array([0.001, 0.004, 0.01, 0.018, 0.022, 0.03, 0.1])
TEST = Counts(100_000, (TRUE * 100_000).astype(int).tolist(), [0.1 * i for i in range(7)])


def test_honest_sets_keep_their_promise_and_careless_ones_do_not() -> None:
    draw = np.random.default_rng(0)
    sets = [
        Counts(600, (draw.random((600, 1)) < TRUE).sum(0).tolist(), [0.0] * 7) for _ in range(200)
    ]
    for risk in (0.005, 0.02, 0.05):
        assert kept(sets, TEST, risk).holds
    bold = [Counts(600, [0] * 7, [0.0] * 7)] * 200
    broken = kept(bold, TEST, 0.02)
    assert not broken.holds
    assert (broken.exceeded, broken.clearly) == (200, 200)
    assert broken.worst_realised == 0.1
    assert broken.mean_saved == pytest.approx(0.6)


def test_a_set_that_proves_nothing_does_not_exit() -> None:
    few = Counts(100, [0] * 7, [0.0] * 7)
    assert choose(few, 0.02, 0.95) is None
    found = kept([few], TEST, 0.02)
    assert (found.without_exit, found.mean_realised, found.mean_saved) == (1, 0.0, 0.0)


def test_so_many_of_200_sets_may_exceed() -> None:
    assert allowed(200, 0.05) == 15


def test_parts_are_joined_by_their_sizes() -> None:
    whole = Counts.joined([Counts(100, [1, 2], [0.1, 0.2]), Counts(300, [3, 4], [0.5, 0.6])])
    assert (whole.samples, whole.changed) == (400, [4, 6])
    assert whole.saved == pytest.approx([0.4, 0.5])
    with pytest.raises(ValueError, match="no samples"):
        Counts.joined([])
