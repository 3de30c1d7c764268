"""The rows of ``benchmarks.exits``: for a terminal, and as a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.page import circumstances_of, table

NONE = "no exit"
GOALS: Mapping[int, float] = {1: 0.85, 8: 0.92}
"""The share of a FLOPs saving that is to show as time, by sequences."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round. Seconds; FLOPs and bytes are those of all sequences together."""

    prefill: float
    step: float
    prefill_flops: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One case over all rounds; ratios are to the case without exit (medians over rounds)."""

    dtype: str
    sequences: int
    case: str
    rounds: int
    prefill_ms: float
    prefill_ratio: float
    flops_ratio: float | None
    realised: float | None
    step_ms: float
    step_ratio: float
    kv_bytes: int | None
    kv_ratio: float | None


def row(dtype: str, sequences: int, case: str, rounds: Sequence[Mapping[str, Sample]]) -> Row:
    """Medians of one case and its ratios to the one without an exit, round by round."""
    base, own = ([each[name] for each in rounds] for name in (NONE, case))
    pairs = list(zip(own, base, strict=True))
    time_ratio = statistics.median(a.prefill / b.prefill for a, b in pairs)
    counted = own[0].prefill_flops > 0
    flops_ratio = own[0].prefill_flops / base[0].prefill_flops if counted else None
    saved = flops_ratio is not None and flops_ratio < 1
    return Row(
        dtype=dtype,
        sequences=sequences,
        case=case,
        rounds=len(rounds),
        prefill_ms=1000 * statistics.median(a.prefill for a in own),
        prefill_ratio=time_ratio,
        flops_ratio=flops_ratio,
        realised=(1 - time_ratio) / (1 - (flops_ratio or 0)) if saved else None,
        step_ms=1000 * statistics.median(a.step for a in own),
        step_ratio=statistics.median(a.step / b.step for a, b in pairs),
        kv_bytes=own[0].kv_bytes if counted else None,
        kv_ratio=own[0].kv_bytes / base[0].kv_bytes if counted else None,
    )


HEAD = (
    f"{'type':<9} {'seqs':>4}  {'image in layers':<18} {'prefill':>10} {'time':>6} {'FLOPs':>6} "
    f"{'realised':>8} {'step':>9} {'time':>6} {'KV':>9} {'bytes':>6}"
)


def line(each: Row) -> str:
    """Under ``HEAD``."""
    flops = "" if each.flops_ratio is None else f"{each.flops_ratio:.3f}"
    realised = "" if each.realised is None else f"{each.realised:.0%}"
    held = "" if each.kv_bytes is None else f"{each.kv_bytes / 1e6:.1f} MB"
    ratio = "" if each.kv_ratio is None else f"{each.kv_ratio:.3f}"
    return (
        f"{each.dtype:<9} {each.sequences:>4}  {each.case:<18} {each.prefill_ms:>7.1f} ms "
        f"{each.prefill_ratio:>6.3f} {flops:>6} {realised:>8} {each.step_ms:>6.2f} ms "
        f"{each.step_ratio:>6.3f} {held:>9} {ratio:>6}"
    )


def text(rows: Sequence[Row], origin: Mapping[str, Any], model: str) -> str:
    """Circumstances and a table; bold is a share that reaches its goal."""
    goals = ", ".join(f"{goal:.0%} with {count}" for count, goal in GOALS.items())
    least = min(each.rounds for each in rows)
    head = ["type", "sequences", "layers that see the image", "prefill", "time ratio"]
    head += ["FLOPs ratio", "saving realised", "per token", "ratio", "KV"]
    return "\n\n".join(
        [
            f"{circumstances_of(origin)}: {model}, {origin['threads']} threads; medians of {least} "
            f"interleaved rounds. Goals for the saving realised, by sequences: {goals}.",
            table(head, [_cells(each) for each in rows]),
        ]
    )


def _cells(each: Row) -> list[str]:
    realised = "" if each.realised is None else f"{each.realised:.0%}"
    if each.realised is not None and each.realised >= GOALS.get(each.sequences, 2.0):
        realised = f"**{realised}**"
    return [
        each.dtype,
        str(each.sequences),
        each.case,
        f"{each.prefill_ms:.0f} ms",
        f"{each.prefill_ratio:.3f}",
        "" if each.flops_ratio is None else f"{each.flops_ratio:.3f}",
        realised,
        f"{each.step_ms:.1f} ms",
        f"{each.step_ratio:.2f}",
        "" if each.kv_bytes is None else f"{each.kv_bytes / 1e6:.1f} MB",
    ]
