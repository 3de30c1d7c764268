"""The machine during a measurement: where a number comes from, and who else was using the cores."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from dyvte.bench.provenance import Provenance

T = TypeVar("T")
QUIET_CORES = 0.15
"""A round during which others used more than this many cores does not count."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Provenance of a measurement with torch in this process."""

    run: Provenance
    torch: str
    threads: int
    seed: int
    device: str

    @classmethod
    def here(cls, command: Sequence[str], seed: int, device: str) -> Origin:
        """As it is now; call after the number of threads is set."""
        return cls(
            run=Provenance.here(command),
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            seed=seed,
            device=torch.cuda.get_device_name() if device.startswith("cuda") else device,
        )

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        own = {name: value for name, value in asdict(self).items() if name != "run"}
        return asdict(self.run) | own

    def __str__(self) -> str:
        return "\n".join(f"{name:<8} {value}" for name, value in self.as_json().items())


class Strangers:
    """Cores that other processes used since this was made (0.0 where the system does not say).

    ``own`` counts the processor seconds of what is measured: by default this process.
    """

    def __init__(self, own: Callable[[], float] = time.process_time) -> None:
        self._seconds = own
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = own()

    def cores(self) -> float:
        """Mean over the time since."""
        own = self._seconds() - self._own
        busy = _busy_seconds() - self._busy
        return max(0.0, busy - own) / (time.perf_counter() - self._began)


def _busy_seconds() -> float:
    """CPU seconds of the whole machine that were neither idle nor waiting for a disk."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, *interrupts = map(
        int, stat.read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def quiet_rounds(run: Callable[[], T], rounds: int, busy: bool = False) -> list[T]:
    """``rounds`` results of ``run`` during which nobody else computed; others are discarded.

    After twice as many tries it returns what there is. ``busy`` keeps every result. Raises
    RuntimeError if there is none.
    """
    kept: list[T] = []
    for _ in range(2 * rounds):
        strangers = Strangers()
        found = run()
        others = strangers.cores()
        if busy or others <= QUIET_CORES:
            kept.append(found)
        else:
            print(f"round discarded: others used {others:.2f} cores", file=sys.stderr, flush=True)
        if len(kept) == rounds:
            break
    if not kept:
        raise RuntimeError("this machine is too busy to measure on (see --busy)")
    return kept
