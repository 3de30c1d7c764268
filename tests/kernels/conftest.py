"""Kernels for the level of processor that DYVTE_KERNELS_LEVEL names (``make kernels-test``)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyvte.kernels import build, ops


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
            ops._library.cache_clear()
            ops.panel.cache_clear()
        found = build.library()
        if found is None:
            pytest.skip("needs a C++ compiler")
        yield Path(found._name)
    ops._library.cache_clear()
    ops.panel.cache_clear()
