"""Tests marked ``playground`` drive a browser: ``make playground-test``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from tests.playground.chromium import Visit, executable, launched, visit

Open = Callable[..., Visit]
UNANSWERED = "Failed to load resource"  # what Chromium itself says of every status above 399


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out, with the reason, where they were not asked for or cannot run."""
    reason = None
    if "playground" not in str(config.getoption("markexpr")):
        reason = "drives a browser: make playground-test"
    elif importlib.util.find_spec("playwright") is None:
        reason = "playwright is not installed: make playground-test"
    elif executable() is None:
        reason = "no Chromium found: install one, or name it: CHROMIUM=/path/to/chrome"
    for item in items:
        if reason and item.get_closest_marker("playground"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all tests."""
    with launched() as started:
        yield started


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens pages, and holds each of them to a clean console and to its own server."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def open_page(base: str, **context: object) -> Visit:
            one: AbstractContextManager[Visit] = visit(browser, base, **context)  # type: ignore[arg-type]
            visits.append(stack.enter_context(one))
            return visits[-1]

        yield open_page
    for seen in visits:
        assert [text for text in seen.errors if not text.startswith(UNANSWERED)] == []
        assert seen.elsewhere() == []
