"""Rules and scrape settings for a test of minutes: every duration is shortened by one table.

A minute of the original lasts a second, an hour a minute, a day 110 seconds; 15 seconds, between
two scrapes, last one. Order is kept (5m < 15m < 1h < 1d); expressions, thresholds, labels and
names are not touched. What is replaced: ranges in brackets, ``offset``, and the keys
``for``, ``keep_firing_for``, ``interval``, ``scrape_interval``, ``scrape_timeout``,
``evaluation_interval``.
"""

from __future__ import annotations

import re

SECONDS = {"s": 1 / 15, "m": 1.0, "h": 60.0, "d": 110.0}
LEAST_RANGE = 4  # seconds: a rate wants some scrapes

KEYS = "for|keep_firing_for|interval|scrape_interval|scrape_timeout|evaluation_interval"
_KEY = re.compile(rf"(\b(?:{KEYS}): )(\d+)([smhd])\b")
_RANGE = re.compile(r"(\[|\boffset )(\d+)([smhd])(?=\W|$)")


def hurried(text: str) -> str:
    """A YAML file of Prometheus with all its durations shortened."""

    def key(match: re.Match[str]) -> str:
        return f"{match[1]}{_seconds(match, least=1)}s"

    def window(match: re.Match[str]) -> str:
        return f"{match[1]}{_seconds(match, least=LEAST_RANGE)}s"

    return _RANGE.sub(window, _KEY.sub(key, text))


def _seconds(match: re.Match[str], least: int) -> int:
    return max(least, round(int(match[2]) * SECONDS[match[3]]))
