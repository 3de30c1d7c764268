"""A headless Chromium of this machine, and pages that keep what went wrong in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
PATIENCE_MS = 30_000


def executable() -> str | None:
    """The Chromium that ``CHROMIUM`` names, or the first that is found."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Any]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        yield browser
        browser.close()


@dataclass(slots=True)
class Visit:
    """One page in a context of its own."""

    page: Any
    base: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def elsewhere(self) -> list[str]:
        """Requests that did not go to the server under test."""
        return [url for url in self.requests if not url.startswith((self.base, "data:", "blob:"))]


@contextmanager
def visit(
    browser: Any, base: str, path: str = "", ready: bool = True, **context: object
) -> Iterator[Visit]:
    """The playground at ``base``, loaded, or another page there."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
    page = opened.new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = Visit(page, base)
    page.on("console", lambda message: _note(seen, message.type, message.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(f"{base}/{path}")
    if ready:
        page.locator('#model[data-state="ready"]').wait_for()
    try:
        yield seen
    finally:
        opened.close()


def _note(seen: Visit, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        seen.errors.append(text)


def show(page: Any, example: str) -> None:
    """Choose one of the example pictures."""
    page.get_by_role("button", name=f"Example: {example}").click()
    page.locator("#tray img").wait_for()


def ask(page: Any, question: str | None = None) -> None:
    """Ask with Enter and wait until the answer, or the refusal, is there."""
    field = page.locator("#question")
    if question is not None:
        field.fill(question)
    field.press("Enter")
    page.locator("#send").wait_for(state="visible")
    page.locator(".run:not(.working)").last.wait_for()
