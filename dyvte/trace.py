"""What happened to one sequence in the layer loop: the server, offline results, FLOPs and tests
read this same record. Plain numbers; knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dyvte.exits.policy import GateReading
from dyvte.exits.prune.rule import Cut


@dataclass(slots=True)
class SequenceTrace:
    """What happened to one segment: rows per layer run, gates asked, cuts, where its image left.

    ``measured`` has what policies that measure were given instead of a gate's reading.
    ``rule_flops`` is what pruning rules and such policies spent themselves.
    ``cached_per_layer`` counts the rows of ``tokens_per_layer`` that were not computed, since an
    earlier request had left them; empty where none were looked for or found.
    """

    tokens_per_layer: list[int] = field(default_factory=list)
    exit_layer: int | None = None
    readings: list[GateReading] = field(default_factory=list)
    gates_asked: list[int] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    measured: list[tuple[float, ...]] = field(default_factory=list)
    rule_flops: int = 0
    cached_per_layer: list[int] = field(default_factory=list)

    @property
    def gates_read(self) -> int:
        """Readings, of gates and of what stands in for one."""
        return len(self.readings) + len(self.measured)

    @property
    def gates_nan(self) -> int:
        """Those that were NaN."""
        silent = sum(any(map(math.isnan, each)) for each in self.measured)
        return silent + sum(reading.is_nan for reading in self.readings)

    def kept_visual(self, visual_rows: int) -> list[tuple[int, tuple[int, ...]]]:
        """``(layer, rows)`` per cut: which of the prompt's visual rows (0-based) stayed."""
        rows, kept = tuple(range(visual_rows)), []
        for cut in self.cuts:
            rows = tuple(rows[i] for i in cut.kept)
            kept.append((cut.layer, rows))
        return kept
