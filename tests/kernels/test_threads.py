"""The kernels beside torch in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dyvte.kernels import build


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_the_kernels_share_torch_s_pool_of_threads() -> None:
    """In a process of their own: other libraries bring copies under names of their own."""
    if build.library() is None:
        pytest.skip("needs a C++ compiler")
    code = (
        "import torch; from dyvte.kernels import build; assert build.library() is not None; "
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line})"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60
    )
    assert len(said.decode().split()) == 1
