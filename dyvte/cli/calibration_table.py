"""What a calibration found, as a table on the terminal and a few sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from dyvte.exits.calibration import KINDS, Calibration, Curve, Point
from dyvte.exits.presets import PAPER_AGGRESSIVENESS

RISKS = (0.005, 0.01, 0.02, 0.05)
HEADS = (
    "policy",
    "prompts",
    "promise",
    "setting",
    "changed",
    "at most",
    "prefill",
    "request",
    "exit",
)


def show(calibration: Calibration, console: Console) -> None:
    """One row a promise, and one for the paper's rule where a policy has it."""
    table = Table(title=f"changed answers and FLOPs saved, {calibration.confidence:.0%} confidence")
    for head in HEADS:
        table.add_column(head, justify="left" if head in HEADS[:2] else "right")
    for policy, kinds in calibration.curves.items():
        for kind in KINDS:
            if kind in kinds:
                for row in _rows(policy, kind, kinds[kind], calibration.confidence):
                    table.add_row(*row)
                table.add_section()
    console.print(table)


def _rows(policy: str, kind: str, curve: Curve, confidence: float) -> Iterator[tuple[str, ...]]:
    lowest = curve.lowest_risk(confidence)
    for risk in RISKS:
        point = curve.boldest(risk)
        why = f"no exit ({lowest:.2%} is the least)" if risk < lowest else "no exit"
        yield (policy, kind, f"≤ {risk:.1%}", *(_cells(curve, point) if point else (why,)))
    if policy == "gate":
        point = curve.at(PAPER_AGGRESSIVENESS)
        yield (policy, kind, "none", *(_cells(curve, point) if point else ("no exit",)))


def _cells(curve: Curve, point: Point) -> tuple[str, ...]:
    return (
        f"{point.setting:.4g}",
        f"{point.changed} of {curve.samples}",
        f"{point.upper:.2%}",
        f"{point.prefill_saved:.1%}",
        f"{point.request_saved:.1%}",
        _mean_exit(point),
    )


def _mean_exit(point: Point) -> str:
    """Mean exit layer of those that left, and how many did not."""
    *left, stayed = point.exits
    count = sum(left)
    if not count:
        return "never"
    mean = sum(layer * number for layer, number in enumerate(left)) / count
    return f"{mean:.1f}" + (f" ({stayed / (count + stayed):.0%} never)" if stayed else "")
