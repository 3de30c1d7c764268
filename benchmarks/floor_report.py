"""The rounds of ``benchmarks.floors`` as figures and as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.limits import Limits
from benchmarks.peers.page import circumstances_of, table

PREFILL, STEP = "prefill", "decode step"
GOALS: Mapping[tuple[str, int], float] = {(STEP, 1): 1.3, (PREFILL, 8): 1.4}
"""Times the floor, by what runs and with how many sequences."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a prefill or of a decode step, and its work: FLOPs of the one, bytes of the
    other.
    """

    what: str
    sequences: int
    seconds: float
    work: int

    def floor(self, limits: Limits) -> float:
        """Seconds that it takes at least."""
        return self.work / (limits.rate if self.what == PREFILL else limits.bandwidth)


@dataclass(frozen=True, slots=True)
class Share:
    """One prefill with gates: its seconds, and those of them in gates; ``goal`` is their share."""

    name: str
    goal: float
    seconds: float
    in_gates: float


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured within the same seconds."""

    limits: Limits
    timings: list[Timing]
    gates: list[Share]


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds, and times the floor with the smallest and largest of them."""

    what: str
    sequences: int
    ms: float
    floor_ms: float
    times: float
    low: float
    high: float

    @property
    def goal(self) -> float | None:
        """Times the floor that is wanted at most."""
        return GOALS.get((self.what, self.sequences))


def rows(rounds: Sequence[Round]) -> list[Row]:
    """One for each timing of a round; ratios are taken within their round."""
    found = []
    for at, first in enumerate(rounds[0].timings):
        own = [each.timings[at].seconds for each in rounds]
        floors = [each.timings[at].floor(each.limits) for each in rounds]
        times = [seconds / floor for seconds, floor in zip(own, floors, strict=True)]
        ms, floor_ms = 1000 * statistics.median(own), 1000 * statistics.median(floors)
        median, low, high = statistics.median(times), min(times), max(times)
        found.append(Row(first.what, first.sequences, ms, floor_ms, median, low, high))
    return found


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Everything that was measured, and what it comes to."""
    return {
        "rounds": [asdict(each) for each in rounds],
        "rows": [asdict(row) for row in rows(rounds)],
    }


def text(rounds: Sequence[Round], origin: Mapping[str, Any], model: str, prompt_rows: int) -> str:
    """Circumstances, limits, and a table of either kind."""
    reads = _spread([each.limits.reads for each in rounds], 1e9)
    products = _spread([each.limits.products for each in rounds], 1e9)
    return "\n\n".join(
        [
            f"{circumstances_of(origin)}: {model}, prompts of {prompt_rows} rows, "
            f"{origin['threads']} threads; medians of {len(rounds)} rounds, smallest and largest "
            "in brackets.",
            f"The limits: reading {reads} GB/s, products of {prompt_rows} rows {products} GFLOP/s.",
            _timings(rows(rounds)),
            "Exit gates, all layers asked, one sequence that keeps its image:",
            _gates(rounds),
        ]
    )


def _spread(found: Sequence[Mapping[str, float]], unit: float) -> str:
    parts = []
    for name in found[0]:
        values = sorted(each[name] / unit for each in found)
        median = statistics.median(values)
        parts.append(f"{name} {median:.3g} ({values[0]:.3g}–{values[-1]:.3g})")
    return ", ".join(parts)


def _timings(found: Sequence[Row]) -> str:
    lines = [
        [
            f"{row.what}, {row.sequences} {'sequence' if row.sequences == 1 else 'sequences'}",
            f"{row.ms:.4g} ms",
            f"{row.floor_ms:.4g} ms",
            f"{_met(row.times, row.goal, '.2f')} ({row.low:.2f}–{row.high:.2f})",
            "" if row.goal is None else f"≤ {row.goal}",
        ]
        for row in found
    ]
    return table(["", "time", "floor", "times the floor", "goal"], lines)


def _gates(rounds: Sequence[Round]) -> str:
    lines = []
    for at, first in enumerate(rounds[0].gates):
        own = [each.gates[at] for each in rounds]
        shares = [each.in_gates / each.seconds for each in own]
        in_gates = 1000 * statistics.median(each.in_gates for each in own)
        share = _met(statistics.median(shares), first.goal, ".2%")
        spread = f"({min(shares):.2%}–{max(shares):.2%})"
        lines.append([first.name, f"{in_gates:.3g} ms", f"{share} {spread}", f"< {first.goal:.0%}"])
    return table(["gates", "in a prefill", "share of it", "goal"], lines)


def _met(value: float, goal: float | None, form: str) -> str:
    """Bold where the goal is met."""
    told = format(value, form)
    return f"**{told}**" if goal is not None and value <= goal else told
