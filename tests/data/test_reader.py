"""Samples of both layouts, and what becomes of rows that are none."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyvte.data import DataError, Sample, Skips, loaded, read_samples
from dyvte.data import rows as rows_module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``red.png``, ``blue.png`` and ``broken.png``."""
    for name in ("red", "blue"):
        Image.new("RGB", (4, 4), name).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    return tmp_path


def lines(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def array(folder: Path, *rows: Any) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(list(rows), indent=1))
    return path


def user(text: str, *pictures: str) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def llava(*turns: str, image: Any = "red.png", **more: Any) -> dict[str, Any]:
    said = [
        {"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(turns)
    ]
    return {"id": "7", "conversations": said, **({"image": image} if image else {}), **more}


def test_a_chat_row_is_one_sample_and_its_last_message_the_answer(folder: Path) -> None:
    said = {"role": "assistant", "content": "red"}
    row = {"messages": [user("which?", "red.png"), said], "kind": "colour", "choices": ["a", "b"]}
    (sample,) = read_samples(lines(folder, row))
    assert (sample.answer, sample.answers, sample.kind) == ("red", ("red",), "colour")
    assert sample.choices == ("a", "b")
    assert not sample.conversation
    ((picture, text),) = [message["content"] for message in sample.load()]
    assert text == {"type": "text", "text": "which?"}
    assert picture["image"].getpixel((0, 0)) == (255, 0, 0)


def test_answers_that_are_accepted_stand_beside_the_given_one(folder: Path) -> None:
    one = {"messages": [user("q")], "answers": ["two", "2"]}
    two = {"messages": [user("q")], "answer": "2", "answers": ["two", "2"]}
    three = {"messages": [user("q")]}
    read = list(read_samples(lines(folder, one, two, three)))
    assert [sample.answer for sample in read] == ["two", "2", None]
    assert [sample.answers for sample in read] == [("two", "2"), ("two", "2"), ()]


def test_a_data_url_is_a_picture(folder: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (2, 2), "blue").save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    (sample,) = read_samples(lines(folder, {"messages": [user("q", url)]}))
    assert sample.pictures[0].open().getpixel((0, 0)) == (0, 0, 255)


def test_a_conversation_of_llavas_is_a_sample_a_turn(folder: Path) -> None:
    row = llava("<image>\nwhat?", "a thing", "what colour?", "red", "sure?")
    read = list(read_samples(array(folder, row)))
    assert [sample.id for sample in read] == ["7/1", "7/2", "7/3"]
    assert [sample.answer for sample in read] == ["a thing", "red", None]
    assert [sample.conversation for sample in read] == [False, True, True]
    assert {sample.group for sample in read} == {0}
    assert [len(sample.messages) for sample in read] == [1, 3, 5]
    kinds = [part["type"] for part in read[0].messages[0]["content"]]
    assert kinds == ["image", "text"]
    assert read[0].messages[0]["content"][1]["text"] == "what?"


def test_several_pictures_go_to_their_placeholders(folder: Path) -> None:
    row = llava("<image> or <image>?", "red", image=["red.png", "blue.png"])
    (sample,) = read_samples(array(folder, row))
    assert [picture.path for picture in sample.pictures] == [
        folder / "red.png",
        folder / "blue.png",
    ]
    assert [part["type"] for part in sample.messages[0]["content"]] == [
        "image",
        "text",
        "image",
        "text",
    ]


def test_images_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("texts")
    path = array(other, llava("<image>?", "red"))
    assert [sample.answer for sample in read_samples(path, folder)] == ["red"]
    skips = Skips()
    assert list(read_samples(path, skips=skips)) == []
    assert "red.png not found" in skips.rows[0].reason


MALFORMED: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ([1], "must be an object"),
    ({"id": 1}, 'needs "messages"'),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "no user turn"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "role"),
    ({"messages": [{"role": "user"}]}, "must be text or a list"),
    ({"messages": [user("q", "none.png")]}, "not found"),
    ({"messages": [user("q", "http://x/y.png")]}, "not fetched"),
    ({"messages": [user("q", "data:image/png,xx")]}, "data URL"),
    # Each of these once ended the command with a traceback, hours into a collection.
    ({"messages": [user("q", "iVBORw0KGgo" * 1000)]}, "not found"),
    ({"messages": [user("half a \ud83d")]}, "half a character"),
    ({"messages": [user("q")], "id": "\udc00"}, "half a character"),
    ("[" * 200_000, "nested too deeply"),
    ('{"id": ' + "9" * 5000 + "}", "a number is too long"),
    ({"messages": [{"role": "system", "content": user("q", "red.png")["content"]}]}, "hold an"),
    ({"messages": [user("q")], "answers": "a"}, "list of texts"),
    ({"messages": [user("q")], "answer": 3}, "must be text, not int"),
    (llava("what?", "a"), "0 <image> in the turns for 1 images"),
    (llava("<image><image>", "a"), "2 <image>"),
    (llava("<image>?", "a", image=3), "path or a list"),
    (llava("<image>?", " "), "empty answer"),
    (llava(image=None), "no human turn"),
    ({"conversations": "hello"}, "must be a list"),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "where user is due"),
    ({"conversations": [{"from": "human"}]}, "needs"),
]


@pytest.mark.parametrize(("row", "reason"), MALFORMED)
def test_a_malformed_row_is_told_by_its_line_and_passed_over(
    folder: Path, row: Any, reason: str
) -> None:
    good = {"messages": [user("q", "red.png")]}
    skips = Skips()
    read = list(read_samples(lines(folder, good, "", row, good), skips=skips))
    assert [sample.line for sample in read] == [1, 4]
    assert [skip.line for skip in skips.rows] == [3]
    assert reason in skips.rows[0].reason
    assert len(skips.rows[0].reason) < 1000


def test_a_row_of_an_array_that_is_no_text_is_passed_over(folder: Path) -> None:
    good, half = ({"messages": [user(text, "red.png")]} for text in ("a \U0001f600", "a \ud83d"))
    skips = Skips()
    read = list(read_samples(array(folder, good, half, good), skips=skips))
    assert len(read) == 2
    assert "half a character" in skips.rows[0].reason


@pytest.mark.parametrize("url", ["broken.png", "data:image/png;base64,a", "data:a;base64,####"])
def test_a_picture_that_does_not_decode_is_told_when_it_is_opened(folder: Path, url: str) -> None:
    path = lines(folder, {"messages": [user("q", url)]}, {"messages": [user("q", "red.png")]})
    skips = Skips()
    read = [sample.line for sample, _ in loaded(read_samples(path, skips=skips), skips)]
    assert read == [2]
    assert skips.report() == [f"line 1: {skips.rows[0].reason}"]
    assert "cannot be decoded" in skips.rows[0].reason


def test_a_decoder_may_fail_with_anything(folder: Path) -> None:
    """A broken DDS is NotImplementedError, a broken AVIF RuntimeError: both ended the command."""
    Image.new("RGB", (4, 4), "red").save(folder / "odd.dds")
    whole = bytearray((folder / "odd.dds").read_bytes())
    whole[80:84] = bytes(4)  # the flags of the pixel format
    (folder / "odd.dds").write_bytes(whole)
    skips = Skips()
    path = lines(folder, {"messages": [user("q", "odd.dds")]})
    assert list(loaded(read_samples(path), skips)) == []
    assert "odd.dds cannot be decoded" in skips.rows[0].reason


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_an_array_is_read_in_pieces_and_counts_lines(
    folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "CHUNK", chunk)
    rows = [llava("<image>?", f"a [{i}], \n", id=i) for i in range(3)]
    path = array(folder, *rows)
    read = list(read_samples(path))
    assert [sample.id for sample in read] == ["0", "1", "2"]
    text = path.read_text().splitlines()
    assert all(text[sample.line - 1].strip() == "{" for sample in read)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("[{}, {", "line 1"), ("[\n{},\n nope]", "line 3"), ("[{}", "too early")],
)
def test_a_file_that_cannot_be_read_on_is_an_error(folder: Path, text: str, message: str) -> None:
    (folder / "bad.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_samples(folder / "bad.json"))


def test_what_is_not_there_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        read_samples(folder / "none.json")
    with pytest.raises(DataError, match="is not a folder"):
        read_samples(array(folder), folder / "none")
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        list(read_samples(folder / "bytes.json"))


def test_a_long_report_says_how_many_more() -> None:
    skips = Skips()
    for line in range(5):
        skips.add(line, "bad")
    assert skips.report(2) == ["line 0: bad", "line 1: bad", "… and 3 more"]


def test_a_sample_without_pictures_is_a_sample(folder: Path) -> None:
    (sample,) = read_samples(array(folder, llava("hello", "hi", image=None)))
    assert isinstance(sample, Sample)
    assert sample.pictures == []
    assert sample.load() == [{"role": "user", "content": "hello"}]


def test_rows_that_show_the_same_picture_are_one_group(folder: Path) -> None:
    rows = [{"messages": [user("q", *shown)]} for shown in (["red.png"], ["blue.png"], ["red.png"])]
    read = list(read_samples(lines(folder, *rows, {"messages": [user("q")]})))
    assert [sample.group for sample in read] == [0, 1, 0, 3]


def test_a_pictures_detail_goes_along_and_another_word_is_refused(folder: Path) -> None:
    asked = user("which?", "red.png", "blue.png")
    asked["content"][0]["image_url"]["detail"] = "low"
    said = {"role": "assistant", "content": "red"}
    (sample,) = read_samples(lines(folder, {"messages": [asked, said]}))
    [parts] = [message["content"] for message in sample.load()]
    assert [part.get("detail") for part in parts] == ["low", "auto", None]
    asked["content"][0]["image_url"]["detail"] = "tiny"
    skips = Skips()
    assert list(read_samples(lines(folder, {"messages": [asked, said]}), skips=skips)) == []
    assert skips.report() == ["line 1: detail 'tiny' of an image: use auto, low, high"]
