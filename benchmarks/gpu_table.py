"""The rows of ``benchmarks.gpu`` as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FILE = "gpu"
HEAD = (
    "| requests | layers with the image | vision | prefill | × floor | time ratio | FLOPs ratio "
    "| saving realised | decode step | × floor | step ratio | KV |"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One case over all rounds; ``seen`` None: every layer sees the image."""

    requests: int
    seen: int | None
    vision_ms: float
    prefill_ms: float
    prefill_floor_ms: float
    prefill_ratio: float
    flops_ratio: float
    step_ms: float
    step_floor_ms: float
    step_ratio: float
    kv_bytes: int

    @property
    def realised(self) -> float | None:
        """Share of the FLOPs saving that shows as prefill time; None where nothing is saved."""
        saved = 1 - self.flops_ratio
        return (1 - self.prefill_ratio) / saved if saved > 0 else None


def table(rows: Sequence[Row], depth: int) -> str:
    """One line a row."""
    rule = "|" + "---|" * HEAD.count(" |")
    return "\n".join([HEAD, rule, *(_line(row, depth) for row in rows)])


def _line(row: Row, depth: int) -> str:
    cells = (
        f"{row.requests}",
        f"all {depth}" if row.seen is None else f"{row.seen} of {depth}",
        f"{row.vision_ms:.1f} ms",
        f"{row.prefill_ms:.1f} ms",
        f"{row.prefill_ms / row.prefill_floor_ms:.2f}",
        f"{row.prefill_ratio:.3f}",
        f"{row.flops_ratio:.3f}",
        "" if row.realised is None else f"{row.realised:.0%}",
        f"{row.step_ms:.2f} ms",
        f"{row.step_ms / row.step_floor_ms:.2f}",
        f"{row.step_ratio:.3f}",
        f"{row.kv_bytes / 1e6:.1f} MB",
    )
    return f"| {' | '.join(cells)} |"
