"""What a process holds: resident memory, threads, open files, as Linux counts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    """One look. ``rss`` in bytes."""

    rss: int
    threads: int
    files: int

    @classmethod
    def by(cls, pid: int | None = None) -> Held:
        """What process ``pid`` (default: this one) holds now."""
        proc = Path("/proc") / str(os.getpid() if pid is None else pid)
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        rss = int(status["VmRSS"].split()[0]) * 1024
        return cls(rss, int(status["Threads"]), len(os.listdir(proc / "fd")))

    def __str__(self) -> str:
        return f"{self.rss / 2**20:.0f} MiB, {self.threads} threads, {self.files} files"
