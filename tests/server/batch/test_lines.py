"""The input file: every line is a request, or told what it lacks, whatever stands around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.batch.lines import BadLine, Book, Line, count_lines, read_lines

CHAT = "/v1/chat/completions"
MAX_BODY = 1000


def row(custom_id: object = "a", **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"x": 1}, **fields}


def read(folder: Path, *lines: str | dict[str, Any]) -> list[Line | BadLine | None]:
    file = folder / "in.jsonl"
    written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(written), encoding="utf-8")
    return list(read_lines(file, Book(), {CHAT}, MAX_BODY))


@pytest.mark.parametrize(
    ("line", "code", "custom_id"),
    [
        ("{", "invalid_json_line", None),
        ("[1]", "invalid_json_line", None),
        ('{"custom_id": "\\ud800"}', "invalid_json_line", None),
        ({"method": "POST"}, "missing_required_parameter", None),
        (row(7), "invalid_type", None),
        (row(""), "invalid_type", None),
        (row(method="GET"), "invalid_method", "a"),
        (row(url="/v1/embeddings"), "invalid_url", "a"),
        (row(url=["x"]), "invalid_url", "a"),
        (row(body="hi"), "invalid_type", "a"),
        (row(body={"stream": True}), "invalid_value", "a"),
        (row(body={"x": "y" * 70_000}), "line_too_long", None),
    ],
)
def test_a_bad_line_fails_alone(
    tmp_path: Path, line: str | dict[str, Any], code: str, custom_id: str | None
) -> None:
    first, bad, last = read(tmp_path, row("first"), line, row("last"))
    assert isinstance(first, Line)
    assert isinstance(bad, BadLine)
    assert (bad.code, bad.number, bad.custom_id) == (code, 2, custom_id)
    assert isinstance(last, Line)
    assert (last.number, last.custom_id, last.url, last.body) == (3, "last", CHAT, b'{"x":1}')


def test_the_second_of_a_custom_id_is_refused_without_it(tmp_path: Path) -> None:
    _, second, _ = read(tmp_path, row("a"), row("a", url="/nowhere"), row("b"))
    assert isinstance(second, BadLine)
    assert (second.code, second.custom_id) == ("duplicate_custom_id", None)
    assert "line 1" in second.message


def test_blank_lines_a_byte_order_mark_and_windows_ends_are_no_lines(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(row()).encode() + b"\r\n\r\n  \n")
    assert count_lines(file) == 1
    (line,) = read_lines(file, Book(), {CHAT}, MAX_BODY)
    assert isinstance(line, Line)


def test_a_line_of_many_pieces_is_one_line(tmp_path: Path) -> None:
    found = read(tmp_path, row("a", body={"x": "y" * 400_000}), row("b"))
    assert [line.number for line in found if line] == [1, 2]
    assert count_lines(tmp_path / "in.jsonl") == 2


def test_what_an_earlier_run_dealt_with_is_skipped(tmp_path: Path) -> None:
    file, book = tmp_path / "in.jsonl", Book()
    lines = [json.dumps(row("a")), "{", json.dumps(row("b"))]
    file.write_text("\n".join(lines), encoding="utf-8")
    book.note_answer("a")
    book.note_answer("gone")
    book.note_bad(2)
    first, bad, fresh = read_lines(file, book, {CHAT}, MAX_BODY)
    assert (first, bad) == (None, None)
    assert isinstance(fresh, Line)
    assert book.unclaimed == 1
