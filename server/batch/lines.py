"""The input file, line by line: a request to ask, or the reason why it cannot be one.

Holds one line at a time, and 16 bytes of every ``custom_id``. Whether a body is a valid request
is the route's to say; here is only what OpenAI asks of a batch's lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

AROUND_BODY = 64 * 1024  # custom_id, method, url and what stands between
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A request; ``body`` is JSON. ``number`` counts from 1."""

    number: int
    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request. ``custom_id`` is None where it has none of its own."""

    number: int
    code: str
    message: str
    param: str | None = None
    custom_id: str | None = None


@dataclass(slots=True)
class Book:
    """Whose lines need not be asked: those with an answer, and second ones of a ``custom_id``.

    ``unclaimed`` counts the answers whose line was not met (yet).
    """

    unclaimed: int = 0
    _lines: dict[bytes, int] = field(default_factory=dict)  # 0: answered, its line not met yet
    _bad: set[int] = field(default_factory=set)

    def note_answer(self, custom_id: str) -> None:
        """An earlier run has answered it."""
        key = _digest(custom_id)
        self.unclaimed += key not in self._lines
        self._lines.setdefault(key, 0)

    def note_bad(self, number: int) -> None:
        """An earlier run has told what is wrong with a line that has no ``custom_id``."""
        self._bad.add(number)

    def is_told(self, bad: BadLine) -> bool:
        """True if an earlier run has told it."""
        return bad.custom_id is None and bad.number in self._bad

    def claim(self, custom_id: str, number: int) -> int | None:
        """None: line ``number`` is the first and unanswered; 0: answered; else the first line."""
        key = _digest(custom_id)
        before = self._lines.get(key)
        if not before:
            self._lines[key] = number
            self.unclaimed -= before == 0
        return before


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


def count_lines(path: Path) -> int:
    """Lines with something on them."""
    with path.open("rb") as file:
        return sum(1 for _ in _raw_lines(file, AROUND_BODY))


def read_lines(
    path: Path, book: Book, urls: Collection[str], max_body: int
) -> Iterator[Line | BadLine | None]:
    """What each line is; None if an earlier run has dealt with it."""
    with path.open("rb") as file:
        for number, raw in _raw_lines(file, max_body + AROUND_BODY):
            line = _parse(number, raw, urls) if raw else _too_long(number, max_body)
            yield _unless_done(line, book)


def _raw_lines(file: IO[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not blank; b"" stands for one beyond ``longest``."""
    number = 0
    while raw := file.readline(longest):
        number += 1
        whole = raw.endswith(b"\n") or len(raw) < longest
        while raw and not whole:
            whole = (rest := file.readline(longest)).endswith(b"\n") or not rest
        if len(raw) == longest and not raw.endswith(b"\n"):
            yield number, b""
        elif text := raw.removeprefix(BOM if number == 1 else b"").strip():
            yield number, text


def _unless_done(line: Line | BadLine, book: Book) -> Line | BadLine | None:
    if line.custom_id is None:
        assert isinstance(line, BadLine), "a request has a custom_id"
        return None if book.is_told(line) else line
    before = book.claim(line.custom_id, line.number)
    if before is None:
        return line
    if before == 0:
        return None
    # Without the id: whoever reads answers by custom_id must find the first line's there.
    message = f"The custom_id '{line.custom_id[:200]}' is that of line {before} already."
    second = BadLine(line.number, "duplicate_custom_id", message, "custom_id")
    return None if book.is_told(second) else second


def _too_long(number: int, max_body: int) -> BadLine:
    return BadLine(number, "line_too_long", f"The line's body exceeds {max_body} bytes.", "body")


def _parse(number: int, raw: bytes, urls: Collection[str]) -> Line | BadLine:
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return BadLine(number, "invalid_json_line", "This line is not valid JSON in UTF-8.")
    if not isinstance(row, dict):
        return BadLine(number, "invalid_json_line", "This line is not a JSON object.")
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        message = "'custom_id' must be a string that is not empty."
        code = "invalid_type" if "custom_id" in row else "missing_required_parameter"
        return BadLine(number, code, message, "custom_id")
    return _request(number, custom_id, row, urls)


def _request(
    number: int, custom_id: str, row: dict[str, Any], urls: Collection[str]
) -> Line | BadLine:
    method, url, body = row.get("method"), row.get("url"), row.get("body")

    def bad(code: str, message: str, param: str) -> BadLine:
        return BadLine(number, code, message, param, custom_id)

    if method != "POST":
        return bad("invalid_method", "'method' must be POST.", "method")
    if not isinstance(url, str) or url not in urls:
        known = ", ".join(sorted(urls))
        return bad("invalid_url", f"'url' must be one of {known}.", "url")
    if not isinstance(body, dict):
        return bad("invalid_type", "'body' must be a JSON object.", "body")
    if body.get("stream"):
        return bad("invalid_value", "A batch has no streams: leave 'stream' out.", "body.stream")
    return Line(number, custom_id, url, orjson.dumps(body))
