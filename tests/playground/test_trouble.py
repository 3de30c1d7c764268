"""What goes wrong is said in the server's own words, and the page goes on."""

from __future__ import annotations

import pytest

from tests.playground.chromium import ask, show
from tests.playground.conftest import Open
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve
from tests.server.test_process import free_port

pytestmark = pytest.mark.playground


def test_a_refusal_shows_the_servers_message_and_its_facts(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        ask(page, "word " * 200)
        error = page.locator(".error")
        assert error.locator("p").text_content() == "the prompt has 1000 tokens; the context is 512"
        assert error.locator("small").text_content().startswith("HTTP 400 · invalid_prompt · req_")
        ask(page, "short")
        assert page.locator(".answer").text_content() == "Hello, world."


def test_a_full_server_says_when_to_come_again(opened: Open) -> None:
    with serve(FakeEngine(capacity=0)) as base:
        page = opened(base).page
        ask(page, "is there room?")
        assert "try again in 3 s" in page.locator(".error").text_content()


def test_what_fails_midway_keeps_what_was_said(opened: Open) -> None:
    with serve(FakeEngine(fail_after=(5, KeyError("x")), step_s=0.2)) as base:
        page = opened(base).page
        ask(page, "and then?")
        assert page.locator(".answer").text_content() == "Hello"
        assert "could not finish this request" in page.locator(".error").text_content()


def test_a_server_that_went_away_is_missed_and_found_again(opened: Open) -> None:
    port = free_port()
    with serve(FakeEngine(), port=port) as base:
        page = opened(base).page
    ask(page, "still there?")
    assert "cannot be reached" in page.locator(".error").text_content()
    page.locator('#model[data-state="lost"]').wait_for()
    with serve(FakeEngine(), port=port):
        page.locator('#model[data-state="ready"]').wait_for()
        ask(page, "back?")
        assert page.locator(".answer").text_content() == "Hello, world."


def test_a_key_is_asked_for_kept_in_the_tab_and_never_in_a_url(opened: Open) -> None:
    with serve(FakeEngine(), api_key="open-sesame") as base:
        seen = opened(base, ready=False)
        page = seen.page
        page.get_by_text("This server asks for a key").wait_for()
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use key").click()
        page.get_by_text("Incorrect API key provided.").wait_for()
        page.get_by_label("API key").fill("open-sesame")
        page.keyboard.press("Enter")
        page.locator('#model[data-state="ready"]').wait_for()
        show(page, "Three hearts")
        ask(page)
        assert page.locator(".answer").text_content() == "Hello, world."
        page.reload()
        page.locator('#model[data-state="ready"]').wait_for()
        assert not any("sesame" in url for url in seen.requests)
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Forget key").click()
        page.get_by_text("This server asks for a key").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
