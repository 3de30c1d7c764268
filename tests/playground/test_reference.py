"""The API reference at ``/docs``: all of the schema, with a key too, and nothing from elsewhere."""

from __future__ import annotations

import httpx
import pytest

from tests.playground.conftest import Open
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve

pytestmark = pytest.mark.playground


def test_every_route_and_every_field_of_the_schema_is_shown(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        schema = httpx.get(f"{base}/openapi.json").json()
        page = opened(base, path="docs", ready=False).page
        page.locator(".route").first.wait_for()
        routes = page.locator(".route h3").all_text_contents()
        wanted = [
            f"{method.upper()}{path}"
            for path, methods in schema["paths"].items()
            for method in methods
        ]
        assert routes == wanted
        for name, shape in schema["components"]["schemas"].items():
            fields = page.locator(f"#{name.lower()} dt code").all_text_contents()
            assert fields == list(shape.get("properties", {})), name
        broken = page.evaluate(
            "[...document.querySelectorAll('main a')].map((link) => link.getAttribute('href'))"
            ".filter((href) => !document.getElementById(href.slice(1)))"
        )
        assert broken == []


def test_a_browser_that_sends_the_key_reads_it_too(opened: Open) -> None:
    headers = {"Authorization": "Bearer right"}
    with serve(FakeEngine(), api_key="right") as base:
        page = opened(base, path="docs", ready=False, extra_http_headers=headers).page
        page.locator(".route").first.wait_for()


def test_the_playground_links_to_it_where_a_link_can_open_it(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        page.get_by_role("link", name="API reference").click()
        page.locator(".route").first.wait_for()
    with serve(FakeEngine(), api_key="right") as base:
        page = opened(base, ready=False).page
        page.get_by_text("This server asks for a key").wait_for()
        assert not page.locator("#reference").is_visible()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_axe_finds_no_barrier(opened: Open, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    screen = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with serve(FakeEngine()) as base:
        page = opened(base, path="docs", ready=False, **screen).page
        page.locator(".route").first.wait_for()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        found = Axe().run(page).response
    assert [one["id"] for kind in ("violations", "incomplete") for one in found[kind]] == []
