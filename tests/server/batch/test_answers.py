"""The output file: what a killed run left is gone on with, and nobody else's file is harmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.batch.answers import Answers, answer, refusal
from server.batch.lines import BadLine, Book
from server.settings import ConfigError

FIRST = answer("batch_req_1", "a", 200, "req_1", {"id": "x"})
SECOND = refusal("batch_req_2", BadLine(7, "invalid_json_line", "No JSON."))
THIRD = answer("batch_req_3", "c", 400, "req_3", {"error": {"message": "no"}})


def lines_of(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_lines_have_openais_form(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Answers(path, Book()) as answers:
        answers.write(FIRST)
        answers.write(SECOND)
    told = {"code": "invalid_json_line", "message": "No JSON.", "param": None, "line": 7}
    assert lines_of(path) == [
        {
            "id": "batch_req_1",
            "custom_id": "a",
            "response": {"status_code": 200, "request_id": "req_1", "body": {"id": "x"}},
            "error": None,
        },
        {"id": "batch_req_2", "custom_id": None, "response": None, "error": told},
    ]


def test_a_line_torn_at_any_byte_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Answers(path, Book()) as answers:
        answers.write(FIRST)
        whole = path.stat().st_size
        answers.write(THIRD)
    written = path.read_bytes()
    for cut in range(whole, len(written)):
        path.write_bytes(written[:cut])
        book = Book()
        with Answers(path, book) as answers:
            assert answers.earlier == 1
            answers.write(THIRD)
        assert path.read_bytes() == written
        assert book.claim("a", 1) == 0
        assert book.claim("c", 3) is None


def test_bad_lines_are_known_again(tmp_path: Path) -> None:
    path, book = tmp_path / "out.jsonl", Book()
    with Answers(path, Book()) as answers:
        answers.write(SECOND)
    with Answers(path, book):
        assert book.is_told(BadLine(7, "invalid_json_line", "No JSON."))
        assert not book.is_told(BadLine(8, "invalid_json_line", "No JSON."))


@pytest.mark.parametrize(
    "text",
    ["notes without an end", "notes\n", '{"custom_id": "a"}\n', '{"id": 5}\n', "[]\n", "7\n"],
)
def test_a_file_of_somebody_elses_is_refused_untouched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^--output .*no batch's answer; give another file$"):
        Answers(path, Book())
    assert path.read_text(encoding="utf-8") == text


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Answers(path, Book()), pytest.raises(ConfigError, match="another run is writing it"):
        Answers(path, Book())
    with Answers(path, Book()) as answers:
        assert answers.earlier == 0
