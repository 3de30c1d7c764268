"""Where a number comes from: command, commit, machine, versions. Goes into every result file."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dyvte import __version__

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one needs in order to repeat a run."""

    command: str
    commit: str | None
    date: str
    version: str
    python: str
    cpu: str
    cores: int

    @classmethod
    def here(cls, command: Sequence[str]) -> Provenance:
        """This process, on this machine, in this checkout (``commit`` None outside of one)."""
        return cls(
            command=shlex.join(command),
            commit=_commit(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            python=platform.python_version(),
            cpu=_cpu(),
            cores=_cores(),
        )


def _commit() -> str | None:
    """Short hash, with ``-dirty`` where tracked files differ from it."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
