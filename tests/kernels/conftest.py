"""Kernels for the level of processor that DYVTE_KERNELS_LEVEL names (``make kernels-test``), and a
cache of compiled ones that starts empty."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dyvte.kernels import build, ops
from tests.kernels.given_compiler import Compiler

NEEDS = "needs a C++ compiler"


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """There are some, at the path given; they are the native ones unless a level is named."""
    level = os.environ.get("DYVTE_KERNELS_LEVEL")
    with pytest.MonkeyPatch.context() as patch:
        if level:
            path = tmp_path_factory.mktemp("level") / f"{level}.so"
            build.compile_into(path, level)
            named = ctypes.CDLL(str(path))
            patch.setattr(build, "library", lambda: named)
            ops.library.cache_clear()
            ops.panel.cache_clear()
        found = build.library()
        if found is None:
            pytest.skip(NEEDS)
        yield Path(found._name)
    ops.library.cache_clear()
    ops.panel.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, nothing in the package, nothing found before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "_shipped", lambda: None)
    monkeypatch.setattr(build, "library", cache(build.library.__wrapped__))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def real() -> Path:
    """A library that can be loaded here."""
    found = build.library()
    if found is None:
        pytest.skip(NEEDS)
    return Path(found._name)


@pytest.fixture
def compiler(tmp_path: Path, real: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler(tmp_path, real)
    monkeypatch.setenv("CXX", str(made.path))
    return made
