"""A compiler that takes no time, and what was loaded of what it gave."""

from __future__ import annotations

import ctypes
from pathlib import Path

from dyvte.kernels import build


def program(folder: Path, *lines: str) -> Path:
    """An executable script."""
    path = folder / "c++"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n", "utf-8")
    path.chmod(0o755)
    return path


class Compiler:
    """Gives what was compiled before, at once, and counts how often it was asked."""

    def __init__(self, folder: Path, real: Path, wait: float = 0) -> None:
        self._calls = folder / "calls"
        self.path = program(
            folder,
            f'echo called >> "{self._calls}"',
            f"sleep {wait}",
            'while [ "$1" != -o ]; do shift; done',
            f'cp "{real}" "$2"',
        )

    @property
    def calls(self) -> int:
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0


def again() -> ctypes.CDLL | None:
    """As in another process."""
    return build.library.__wrapped__()


def place(found: ctypes.CDLL | None) -> Path:
    assert found is not None
    return Path(found._name)
