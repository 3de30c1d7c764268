"""What a process does with the memory that its tensors gave back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Tensors of a megabyte and a half in the heap, every eighth of them in use.
LIVES = """
import resource
from pathlib import Path
import torch
from dyvte.engine.allocator import keep_freed_memory

def megabytes():
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    return int(status.split()[0]) / 1024

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.ones(2**21)  # from here on smaller ones lie in the heap
made = [torch.ones(3 * 2**17) for _ in range(64)]
kept = made[::8]
del made
before = megabytes()
keep_freed_memory()
given_back = before - megabytes()
torch.ones(2**22)
first = faults()
for _ in range(10):
    torch.ones(2**22)
print(given_back, faults() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_is_free_goes_back_and_what_is_freed_later_is_taken_again() -> None:
    """84 megabytes are free; later ten tensors of 4,096 pages each need those of two at the most.

    A tensor may not fit where the one before it lay, whose place begins at other bytes.
    """
    done = subprocess.run([sys.executable, "-c", LIVES], capture_output=True, text=True, check=True)
    given_back, faults = map(float, done.stdout.split())
    assert given_back > 60
    assert faults < 3 * 4096
