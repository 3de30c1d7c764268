"""The output file: one answer a line, appended whole; what an earlier run left is read first.

A process may be killed at any moment: then at most the last line is torn, and is cut by the next
run. A file that is no batch's output is refused, never cut. One run at a time holds a file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import orjson

from server.batch.lines import BadLine, Book
from server.settings import ConfigError

PREFIX = "batch_req_"
_BEGINNING = b'{"id":"' + PREFIX.encode()


class Answers:
    """The file, open and locked until the context ends. Raises ConfigError, OSError."""

    def __init__(self, path: Path, book: Book) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self.earlier = self._read(book)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line, in the operating system's hands when this returns."""
        try:
            self._file.write(orjson.dumps(entry) + b"\n")
            self._file.flush()
        except OSError as error:
            error.filename = str(self._path)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--output {self._path}: another run is writing it") from None

    def _read(self, book: Book) -> int:
        """Enter what is answered into ``book``, cut a torn last line; how many lines stay."""
        self._file.seek(0)
        count = whole = 0
        for raw in self._file:
            if not raw.endswith(b"\n"):
                self._check_torn(raw)
                self._file.truncate(whole)
                break
            self._enter(raw, count + 1, book)
            count, whole = count + 1, whole + len(raw)
        self._file.seek(0, os.SEEK_END)
        return count

    def _enter(self, raw: bytes, number: int, book: Book) -> None:
        try:
            entry = orjson.loads(raw)
            ours, custom_id = entry["id"].startswith(PREFIX), entry["custom_id"]
            line = entry["error"]["line"] if custom_id is None else 0
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._foreign(number) from error
        if not ours:
            raise self._foreign(number)
        if custom_id is None:
            book.note_bad(line)
        else:
            book.note_answer(str(custom_id))

    def _check_torn(self, raw: bytes) -> None:
        if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
            raise self._foreign(None)

    def _foreign(self, number: int | None) -> ConfigError:
        where = "its last line" if number is None else f"line {number}"
        return ConfigError(
            f"--output {self._path}: {where} is no batch's answer; give another file"
        )


def refusal(entry_id: str, bad: BadLine) -> dict[str, Any]:
    """The output line of a line that was no request."""
    error = {"code": bad.code, "message": bad.message, "param": bad.param, "line": bad.number}
    return {"id": entry_id, "custom_id": bad.custom_id, "response": None, "error": error}


def answer(
    entry_id: str, custom_id: str, status: int, request_id: str, body: object
) -> dict[str, Any]:
    """The output line of a request that was answered, also with an error."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": entry_id, "custom_id": custom_id, "response": response, "error": None}
