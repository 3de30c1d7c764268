"""The pages at ``/`` and ``/docs`` as files. What they do is driven in tests/playground."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.api.playground import ASSETS, PLAYGROUND, open_paths
from tests.server.conftest import Connect

pytestmark = pytest.mark.anyio

PAGES = [PLAYGROUND / "index.html", PLAYGROUND / "reference.html"]
SOURCES = sorted([*PAGES, *ASSETS.glob("*.js"), *ASSETS.glob("*.css")])
PAPER = "https://arxiv.org/abs/2411.19628"


async def test_a_browser_gets_the_page_and_all_its_files_without_a_key(connect: Connect) -> None:
    async with connect(api_key="right") as client:
        for path in open_paths():
            reply = await client.get(path)
            assert reply.status_code == 200, path
            assert "script-src 'self';" in reply.headers["content-security-policy"]
            assert "unsafe" not in reply.headers["content-security-policy"]
            assert reply.headers["x-content-type-options"] == "nosniff"


async def test_every_file_that_the_page_names_is_served(connect: Connect) -> None:
    page = "".join(page.read_text("utf-8") for page in PAGES)
    named = {"/" + name for name in re.findall(r'(?:src|href)="((?:playground/|fav)[^"]+)"', page)}
    for module in ASSETS.glob("*.js"):
        imports = re.findall(r'from "\./([^"]+)"', module.read_text("utf-8"))
        named |= {f"/playground/{name}" for name in imports}
    assert len(named) > 10
    async with connect() as client:
        for path in named:
            assert (await client.get(path)).status_code == 200, path


def test_what_the_page_loads_opens_without_a_key() -> None:
    loaded = {f"/playground/{path.relative_to(ASSETS)}" for path in ASSETS.rglob("*.*")}
    assert loaded - set(open_paths()) == {"/playground/reference.js", "/playground/reference.css"}


async def test_an_unchanged_file_is_not_sent_again(connect: Connect) -> None:
    async with connect() as client:
        first = await client.get("/playground/main.js")
        again = await client.get(
            "/playground/main.js", headers={"if-none-match": first.headers["etag"]}
        )
    assert first.headers["content-type"].split(";")[0].endswith("/javascript")
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/playground/", "/playground/%2e%2e/index.html"])
async def test_only_files_of_the_page_are_served(connect: Connect, path: str) -> None:
    async with connect() as client:
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_page_asks_nobody_else_and_makes_no_markup_of_text(source: Path) -> None:
    text = source.read_text("utf-8").replace(PAPER, "")
    assert not re.search(r"https?:|\bsrc=\"//|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"\son[a-z]+=\"|\sstyle=\"|<script>|<style", text)
