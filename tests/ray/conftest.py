"""Tests marked ``ray`` start a cluster of their own and take minutes: ``make ray-test``."""

from __future__ import annotations

import importlib.util

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out, with the reason, where they were not asked for or cannot run."""
    reason = None
    if importlib.util.find_spec("ray") is None:
        reason = "ray is not installed: pip install '.[ray]'"
    elif "ray" not in str(config.getoption("markexpr")):
        reason = "starts a Ray cluster: make ray-test"
    for item in items:
        if reason and item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.skip(reason=reason))
