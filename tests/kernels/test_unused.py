"""Compiled kernels that nobody uses any more do not stay for ever."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

from dyvte.kernels import build, trust
from tests.kernels.given_compiler import Compiler, again, place

DAY = 24 * 3600


def unused_for(path: Path, days: float) -> Path:
    """A file that was last used then."""
    path.touch()
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_libraries_that_nobody_loaded_for_a_month_go_when_another_is_compiled(
    compiler: Compiler, home: Path
) -> None:
    folder = home / "dyvte" / "kernels"
    folder.mkdir(0o700, parents=True)
    old, recent = (folder / f"native-{digit * 16}.so" for digit in "0f")
    unused_for(old, 31)
    others = [unused_for(folder / name, 99) for name in ("mine.so", "native-mine.so", "notes")]
    stay = [unused_for(recent, 29), *others]
    assert set(folder.iterdir()) == {old, *stay}
    kept = place(build.library())
    assert set(folder.iterdir()) == {kept, *stay}


def test_a_library_that_is_loaded_counts_as_used(compiler: Compiler) -> None:
    kept = unused_for(place(build.library()), 99)
    assert place(again()) == kept
    assert time.time() - kept.stat().st_mtime < DAY
    assert compiler.calls == 1


def test_a_library_that_is_removed_while_it_is_loaded_is_compiled_again(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have seen its age a moment before it was touched."""
    kept = place(build.library())
    is_private, opened = trust.is_private, ctypes.CDLL

    def checked_too_late(path: Path) -> bool:
        found = is_private(path)
        if path == kept:
            path.unlink()
        return found

    def as_in_another_process(path: str) -> ctypes.CDLL:  # this one has it loaded already
        if not Path(path).exists():
            raise OSError(path)
        return opened(path)

    monkeypatch.setattr(ctypes, "CDLL", as_in_another_process)
    monkeypatch.setattr(trust, "is_private", checked_too_late)
    assert place(again()) == kept
    assert compiler.calls == 2
