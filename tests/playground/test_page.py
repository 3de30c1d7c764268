"""The page itself: its modules, its keyboard, its width, and what the demo model answers on it."""

from __future__ import annotations

from typing import Any

import pytest

from server.__main__ import open_engine
from server.settings import Settings
from tests.playground.chromium import ask, show
from tests.playground.conftest import Open
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve

pytestmark = pytest.mark.playground

TRUE = {
    "A red circle and a blue square": {
        "What color is the circle?": "red",
        "Is there a blue square?": "yes",
        "Describe the picture.": "a medium red circle at the top left, "
        "a large blue square at the bottom right.",
    },
    "A red star above a white ellipse": {
        "What color is the star?": "red",
        "What is below the star?": "a white ellipse",
        "Describe the picture.": "a medium red star at the top, "
        "a large white ellipse at the bottom.",
    },
    "Three hearts on black": {
        "How many hearts are there?": "3",
        "Which is bigger, the pink heart or the purple heart?": "a pink heart",
        "Describe the picture.": "a medium purple heart at the left, "
        "a large pink heart at the center, a small cyan heart at the bottom left.",
    },
    "A yellow heart, a black circle and a green triangle": {
        "Where is the green triangle?": "bottom right",
        "How big is the heart?": "large",
        "Describe the picture.": "a large yellow heart at the top, "
        "a medium black circle at the bottom, a small green triangle at the bottom right.",
    },
}


CHIPS = """wanted => {
  const chips = [...document.querySelectorAll('#suggestions button')].map(each => each.textContent);
  return JSON.stringify(chips) === JSON.stringify(wanted);
}"""


@pytest.mark.timeout(600)
def test_the_demo_answers_every_example_question_with_its_default_exit(opened: Open) -> None:
    settings = Settings(model="demo", device="cpu")
    with serve(open_engine(settings)) as base:
        page = opened(base).page
        for picture, questions in TRUE.items():
            show(page, picture)
            chips = page.locator("#suggestions button")
            page.wait_for_function(CHIPS, arg=list(questions))
            for at, answer in enumerate(questions.values()):
                chips.nth(at).click()
                ask(page)
                assert page.locator(".answer").text_content() == answer


def test_words_are_compared_in_order(opened: Open) -> None:
    call = "async ([a, b]) => (await import('/playground/words.js')).compare(a, b)"
    cases: list[tuple[str, str, list[str], list[str]]] = [
        ("a b c", "a b c", [], []),
        ("a b c", "a c", ["b"], []),
        ("", "new words", [], ["new", "words"]),
        ("x y z", "z x y", ["z"], ["z"]),
        ("one two three", "four", ["one", "two", "three"], ["four"]),
    ]
    with serve(FakeEngine()) as base:
        page = opened(base).page
        for one, other, lost, gained in cases:
            left, right = page.evaluate(call, [one, other])
            assert [word["word"] for word in left] == one.split()
            assert [word["word"] for word in left if word["differs"]] == lost
            assert [word["word"] for word in right if word["differs"]] == gained


def test_events_are_found_however_the_bytes_are_cut(opened: Open) -> None:
    call = """async ([text, size]) => {
      const bytes = new TextEncoder().encode(text);
      const stream = new ReadableStream({ start(controller) {
        for (let at = 0; at < bytes.length; at += size) {
          controller.enqueue(bytes.slice(at, at + size));
        }
        controller.close();
      } });
      const found = [];
      const { events } = await import("/playground/api.js");
      for await (const data of events(stream)) found.push(data);
      return found;
    }"""
    text = ': keep-alive\n\ndata: {"a": "é"}\n\ndata: two\ndata: lines\n\ndata: [DONE]\n\ndata: cut'
    with serve(FakeEngine()) as base:
        page = opened(base).page
        for size in (1, 2, 7, 1000):
            assert page.evaluate(call, [text, size]) == ['{"a": "é"}', "two\nlines", "[DONE]"]


def test_aggressiveness_goes_to_its_place_on_the_slider_and_back(opened: Open) -> None:
    call = """async (value) => {
      const { aggressiveness } = await import("/playground/slider.js");
      return aggressiveness.valueAt(aggressiveness.placeOf(value));
    }"""
    with serve(FakeEngine()) as base:
        page = opened(base).page
        for value in (0, 0.001, 0.00717, 0.25, 0.5, 0.93, 1):
            assert page.evaluate(call, value) == pytest.approx(value, rel=1e-3)


def _focused(page: Any) -> str:
    name: str = page.evaluate(
        "(document.activeElement.id || document.activeElement.getAttribute('aria-label')"
        " || document.activeElement.textContent).trim()"
    )
    return name


def test_the_keyboard_reaches_everything_in_reading_order(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        order = []
        for _ in range(14):
            page.keyboard.press("Tab")
            order.append(_focused(page))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            seen = order[-1] in ("question", "files", "balanced")  # these mark what is around them
            assert seen or outline != "none", order[-1]
    assert order[:4] == ["Skip to the answer", "reference", "Paper", "files"]
    assert order[8:13] == [
        "question",
        "send",
        "balanced",
        "Prune visual tokens before that",
        "compare",
    ]


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(opened: Open, width: int, scheme: str) -> None:
    long = b"averyveryverylongwordwithoutanybreaks" * 4
    with serve(FakeEngine(answer=long)) as base:
        page = opened(base, viewport={"width": width, "height": 844}, color_scheme=scheme).page
        page.locator("#compare").check()
        show(page, "Three hearts")
        ask(page, "and what is this? " * 20)
        page.locator("#verdict").wait_for()
        page.locator("#wire summary").click()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(19, 20, 23)") is (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier_in_any_state(opened: Open, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def barriers(page: Any) -> list[str]:
        page.wait_for_timeout(600)  # colours settle
        found = Axe().run(page).response
        return [one["id"] for kind in ("violations", "incomplete") for one in found[kind]]

    with serve(FakeEngine()) as base:
        page = opened(base, color_scheme=scheme).page
        assert barriers(page) == []
        show(page, "Three hearts")
        page.locator("#compare").check()
        page.locator("#prune summary").click()
        page.locator("#prune-method").select_option("fastv")
        page.locator(".chip", has_text="Gates").click()
        page.locator("#wire summary").click()
        ask(page)
        assert barriers(page) == []
        ask(page, "word " * 200)
        assert barriers(page) == []
    with serve(FakeEngine(), api_key="right") as base:
        page = opened(base, ready=False, color_scheme=scheme).page
        page.get_by_text("This server asks for a key").wait_for()
        assert barriers(page) == []
