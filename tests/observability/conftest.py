"""Tests marked ``observability`` start servers and take minutes: ``make observability-test``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out, with the reason, where they were not asked for."""
    if "observability" in str(config.getoption("markexpr")):
        return
    for item in items:
        if item.get_closest_marker("observability"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make observability-test"))
