"""Those who are turned away come back at the pace at which there is room."""

from __future__ import annotations

import pytest

from dyvte.engine.turnstile import LONGEST_S, UNKNOWN_GAP_S, WINDOW_S, Turnstile


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def busy(gap: float, ends: int = 20) -> tuple[Turnstile, Clock]:
    """A turnstile at which ``ends`` requests ended, ``gap`` seconds apart."""
    clock = Clock()
    made = Turnstile(clock)
    for _ in range(ends):
        made.ended()
        clock.now += gap
    return made, clock


@pytest.mark.parametrize("gap", [0.05, 0.5, 2.5])
def test_each_is_told_a_place_of_his_own_at_the_present_rate(gap: float) -> None:
    made, _ = busy(gap)
    assert [made.retry_after() for _ in range(3)] == pytest.approx([gap, 2 * gap, 3 * gap])


def test_who_asks_later_does_not_stand_behind_those_whose_time_has_come() -> None:
    made, clock = busy(0.5)
    for _ in range(4):
        made.retry_after()
    clock.now += 30
    assert made.retry_after() == pytest.approx(40 / 20)


def test_a_stall_raises_what_is_told() -> None:
    made, clock = busy(0.1)
    before = made.retry_after()
    clock.now += 20
    assert made.retry_after() > 5 * before


def test_nobody_is_told_more_than_a_minute_or_nothing_at_all() -> None:
    made, clock = busy(0.5)
    told = [made.retry_after() for _ in range(1000)]
    assert 0 < min(told) <= max(told) <= LONGEST_S
    clock.now += 2 * WINDOW_S
    assert made.retry_after() == LONGEST_S
    assert Turnstile(Clock()).retry_after() == UNKNOWN_GAP_S
    assert busy(0.0)[0].retry_after() > 0
