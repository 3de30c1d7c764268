"""Tests marked ``promtool`` replay days of alerts or start programs: ``make check-prometheus``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out, with the reason, where they were not asked for."""
    if "promtool" in str(config.getoption("markexpr")):
        return
    for item in items:
        if item.get_closest_marker("promtool"):
            item.add_marker(pytest.mark.skip(reason="takes a while: make check-prometheus"))
