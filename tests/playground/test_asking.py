"""A visitor asks: pictures in, tokens out, stop, and the account of what came of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from dyvte.engine.events import EngineRequest, TokenEvent
from tests.e2e.pictures import png
from tests.playground.chromium import ask, show
from tests.playground.conftest import Open
from tests.server.fake_engine import NUM_LAYERS, FakeEngine
from tests.server.running import serve, until

pytestmark = pytest.mark.playground

GIVE = """([bytes, event, count]) => {
  const data = new DataTransfer();
  for (let at = 0; at < count; at += 1) {
    data.items.add(new File([new Uint8Array(bytes)], `${at}.png`, { type: "image/png" }));
  }
  const target = event === "paste" ? document.activeElement : document.getElementById("drop");
  const given = event === "paste" ? { clipboardData: data } : { dataTransfer: data };
  const kind = event === "paste" ? ClipboardEvent : DragEvent;
  target.dispatchEvent(new kind(event, { bubbles: true, cancelable: true, ...given }));
}"""


def upload(page: Any, *pictures: bytes) -> None:
    files = [
        {"name": f"{at}.png", "mimeType": "image/png", "buffer": data}
        for at, data in enumerate(pictures)
    ]
    page.locator("#files").set_input_files(files)


def test_an_uploaded_picture_is_asked_about_and_its_exit_drawn(opened: Open) -> None:
    engine = FakeEngine(answer=b"a flag, of two colours")
    with serve(engine) as base:
        page = opened(base).page
        upload(page, png())
        ask(page, "what is it?")
        assert page.locator(".answer").text_content() == "a flag, of two colours"
        assert page.locator(".state").text_content() == "22 tokens"
        assert engine.requests[0].prompt.num_images == 1
        assert page.locator(".stack li").count() == NUM_LAYERS
        assert page.locator(".exit .index").text_content() == "2"
        assert page.locator("figcaption").text_content() == (
            "The 9 visual tokens left after layer 2. The other 3 layers ran on 11 tokens of text."
        )
        widths = page.locator(".visual").evaluate_all("all => all.map(one => one.style.width)")
        assert [width != "0%" for width in widths] == [True] * 3 + [False] * 3
        terms = page.locator(".account dt").all_text_contents()
        assert terms[:5] == ["Vision tower", "Prefill", "Decode", "Gates, pruning", "LM head"]
        assert terms[5:8] == ["Saved", "Kept", "Never kept"]
        assert terms[8:12] == ["Preprocess", "Queue", "Vision", "Prefill"]
        assert terms[-1] == "Decode"


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_pictures_are_pasted_or_dropped_and_taken_away_again(opened: Open, way: str) -> None:
    engine = FakeEngine()
    with serve(engine) as base:
        page = opened(base).page
        page.locator("#question").focus()
        page.evaluate(GIVE, [list(png()), way, 3])
        page.locator("#tray li").nth(2).wait_for()
        page.get_by_role("button", name="Remove 1.png").click()
        ask(page, "which is larger?")
        assert engine.requests[0].prompt.num_images == 2


def test_what_is_no_picture_is_said_so(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture"}
        page.locator("#files").set_input_files([file])
        page.get_by_text("Not a picture that this browser can read: notes.png.").wait_for()
        assert page.locator("#tray li").count() == 0


def test_tokens_show_as_they_come_and_escape_stops_them(opened: Open) -> None:
    engine = FakeEngine(answer=b"word " * 80, step_s=0.05)
    with serve(engine) as base:
        page = opened(base).page
        page.locator("#question").fill("tell me everything")
        page.locator("#question").press("Enter")
        page.locator(".answer", has_text="word word").wait_for()
        page.keyboard.press("Escape")
        page.locator(".state", has_text="stopped").wait_for()
        until(lambda: len(engine.aborted) == 1)
        assert page.locator("#send").is_visible()
        shown = page.locator(".answer").text_content()
        assert 0 < len(shown) < 400


def test_the_stop_button_stops_too(opened: Open) -> None:
    engine = FakeEngine(answer=b"word " * 80, step_s=0.05)
    with serve(engine) as base:
        page = opened(base).page
        page.locator("#question").fill("tell me everything")
        page.locator("#send").click()
        page.locator("#stop").click()
        page.locator(".state", has_text="stopped").wait_for()
        until(lambda: not engine.running)


def test_shift_enter_begins_a_line_and_no_question_is_no_request(opened: Open) -> None:
    engine = FakeEngine()
    with serve(engine) as base:
        page = opened(base).page
        page.locator("#question").press("Enter")
        page.locator("#question").type("one")
        page.locator("#question").press("Shift+Enter")
        assert page.locator("#question").input_value() == "one\n"
        assert engine.requests == []


class Fickle(FakeEngine):
    """Says something else when the image leaves."""

    def submit(self, request: EngineRequest) -> AsyncGenerator[Sequence[TokenEvent], None]:
        off = request.exits is not None and request.exits.policy == "off"
        self.answer = b"a red star over a sea" if off else b"a brown star over the sea"
        return super().submit(request)


def test_comparing_asks_twice_and_marks_the_words_that_differ(opened: Open) -> None:
    engine = Fickle()
    with serve(engine) as base:
        page = opened(base).page
        show(page, "A red star above")
        page.locator("#compare").check()
        ask(page)
        page.locator("#verdict").wait_for()
        assert page.locator("#verdict b").text_content() == "2 words differ"
        assert "compute" in page.locator("#verdict").text_content()
        one, other = (page.locator(".run").nth(at) for at in (0, 1))
        assert one.locator("mark").all_text_contents() == ["red", "a"]
        assert other.locator("mark").all_text_contents() == ["brown", "the"]
        assert other.locator(".answer").text_content() == "a brown star over the sea"
        policies = [request.exits.policy for request in engine.requests if request.exits]
        assert policies == ["off", "gate"]


def test_the_same_answer_twice_is_called_the_same(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        show(page, "Three hearts")
        page.locator("#compare").check()
        ask(page)
        page.locator("#verdict", has_text="The same answer").wait_for()
        assert page.locator("mark").count() == 0


def test_markup_in_an_answer_stays_text(opened: Open) -> None:
    said = '<img src=x onerror="alert(1)"><b>bold</b>'
    with serve(FakeEngine(answer=said.encode())) as base:
        page = opened(base).page
        page.locator("#compare").check()
        ask(page, "<script>alert(2)</script>")
        page.locator("#verdict").wait_for()
        assert page.locator(".answer").first.text_content() == said
        assert page.locator(".answer img, .answer b").count() == 0
