"""What a process keeps of the memory that its tensors gave back."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import dyvte
from dyvte.engine import allocator
from dyvte.kernels import ops
from dyvte.models.decoder import DecoderAdapter
from tests.models.test_fused import MODELS

# Long and short lives side by side, as keys and values lie between activations.
LIVES = """
import sys
from pathlib import Path
import torch
from dyvte.engine import allocator

def megabytes():
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    return int(status.split()[0]) / 1024

getattr(allocator, sys.argv[1])()
before, kept = megabytes(), []
for _ in range(20):
    short = torch.ones(2**21)
    kept.append(torch.ones(2**18))
    del short
    short = torch.ones(2**21 + 2**10 * len(kept))
del short
print(megabytes() - before)
"""


def growth(choice: str) -> float:
    """Megabytes that a process has grown by, of which 20 are in use."""
    done = subprocess.run(
        [sys.executable, "-c", LIVES, choice], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_tensors_go_back_to_the_kernel_or_stay() -> None:
    given_back, kept = growth("give_back_freed_memory"), growth("keep_freed_memory")
    assert 20 <= given_back < 28
    assert kept > given_back + 8


@pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("dtype", "weights", "expected"),
    [
        ("float32", "auto", "give_back_freed_memory"),
        ("float32", "plain", "keep_freed_memory"),
        ("bfloat16", "auto", "keep_freed_memory"),
    ],
)
def test_memory_is_given_back_where_layers_hold_what_they_need(
    dtype: str, weights: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("give_back_freed_memory", "keep_freed_memory"):
        monkeypatch.setattr(allocator, name, lambda name=name: called.append(name))
    folder = MODELS["llama, wide, with biases"].save(tmp_path)
    model = dyvte.load(folder, device="cpu", dtype=dtype, weights=weights)
    assert isinstance(model.adapter, DecoderAdapter)
    allocator.settle(model.adapter)
    assert called == [expected]
