"""Checks of numbers that a caller gives; what is wrong is told with name, value and range."""

from __future__ import annotations

import math

from dyvte.errors import OptionError


def number(name: str, value: object) -> None:
    """Raise OptionError unless ``value`` is a number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionError(name, f"must be a number, not {value!r}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise OptionError unless ``low <= value <= high``; NaN is outside."""
    number(name, value)
    if not low <= value <= high:
        raise OptionError(name, f"must be between {low:g} and {high:g}, not {value}")


def above(name: str, value: float, low: float) -> None:
    """Raise OptionError unless ``value`` is finite and above ``low``."""
    number(name, value)
    if not low < value < math.inf:
        raise OptionError(name, f"must be above {low:g}, not {value}")


def whole(name: str, value: object) -> None:
    """Raise OptionError unless ``value`` is a whole number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(name, f"must be a whole number, not {value!r}")


def at_least(name: str, value: int, low: int) -> None:
    """Raise OptionError unless ``value`` is a whole number and not below ``low``."""
    whole(name, value)
    if value < low:
        raise OptionError(name, f"must be at least {low}, not {value}")
