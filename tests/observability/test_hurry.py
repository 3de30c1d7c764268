"""Shortening touches durations and nothing else."""

from __future__ import annotations

import re

import pytest

from tests.observability.hurry import hurried


@pytest.mark.parametrize(
    ("original", "short"),
    [
        ("for: 15m", "for: 15s"),
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("interval: 1m", "interval: 1s"),
        ("rate(a_total[5m])", "rate(a_total[5s])"),
        ("rate(a_total[1m])", "rate(a_total[4s])"),
        ("increase(a_total[1d])", "increase(a_total[110s])"),
        ("avg_over_time(level:a:ratio_rate1h[1h])", "avg_over_time(level:a:ratio_rate1h[60s])"),
        ("level:a:ratio_rate1h offset 1d", "level:a:ratio_rate1h offset 110s"),
        ("record: policy:a_seconds:p50_rate5m", "record: policy:a_seconds:p50_rate5m"),
    ],
)
def test_durations_are_shortened_and_names_are_not(original: str, short: str) -> None:
    assert hurried(original) == short


def test_longer_stays_longer() -> None:
    lengths = ["1m", "5m", "15m", "1h", "1d"]  # those that rules and panels use
    short = [int(re.sub(r"\D", "", hurried(f"[{length}]"))) for length in lengths]
    assert short == sorted(set(short))
