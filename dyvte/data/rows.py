"""Rows of a data file with the line on which each begins: a JSON array, or one object per line.

Neither is read whole: an array is decoded element by element, so that a file of a gigabyte takes
the memory of its largest row. A line that is no JSON is told and passed over; inside an array
nothing says where the next row begins, so there it ends the reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dyvte.data.sample import DataError, Skips

CHUNK = 1 << 20
_SPACE = " \t\r\n"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_rows(path: Path, skips: Skips) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, decoded row)``. Raises DataError where the file cannot be read on."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.read(1)
            while first and first in _SPACE:
                first = file.read(1)
            file.seek(0)
            if not first:
                raise DataError(f"{path} is empty: give JSON lines or a JSON array")
            yield from _array(file, path, skips) if first == "[" else _lines(file, skips)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason})") from error


def _lines(file: IO[str], skips: Skips) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            skips.add(line, f"not JSON ({_why(error)}{at})")
            continue
        if _is_text(text, row, line, skips):
            yield line, row


def _array(file: IO[str], path: Path, skips: Skips) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    text, at, line = file.read(CHUNK), 0, 1
    at = text.index("[") + 1
    line += text.count("\n", 0, at)
    while True:
        start = _skip(text, at, _SPACE + ",")
        line += text.count("\n", at, start)
        text, at = text[start:], 0
        if text.startswith("]"):
            return
        try:
            row, end = decoder.raw_decode(text) if text else (None, 0)
        except (ValueError, RecursionError) as error:
            row, end = error, 0
        # An element at the very end of what was read may go on in what was not.
        if end in (0, len(text)):
            more = file.read(max(CHUNK, len(text)))
            if more:
                text += more
                continue
            reason = _why(row) if isinstance(row, Exception) else "it ends too early"
            raise DataError(f"{path}: the JSON array cannot be read on at line {line} ({reason})")
        if _is_text(text[:end], row, line, skips):
            yield line, row
        line += text.count("\n", 0, end)
        at = end


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _is_text(source: str, row: Any, line: int, skips: Skips) -> bool:
    """False (and told) if ``\\ud800`` and its kind stand alone: no tokenizer or file takes them."""
    if _SURROGATE.search(source):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            skips.add(line, "not text (half a character, \\ud800 … \\udfff)")
            return False
    return True


def _skip(text: str, at: int, chars: str) -> int:
    while at < len(text) and text[at] in chars:
        at += 1
    return at
