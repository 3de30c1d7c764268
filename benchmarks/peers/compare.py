"""From runs to a comparison: medians over rounds, and ratios to the better of the peers.

For each figure the better peer is the one with the better median; ratios are taken round by round
against it, so that what slowed a whole round down cancels, and are told as their median with
their smallest and largest.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.records import Place, Record, kept
from benchmarks.peers.workloads import E2E, REQUESTS, TOKENS, TTFT, WORKLOADS, Figure

# What an entry should reach against the better peer: (workload, figure, variant) → ratio.
GOALS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("W1", TTFT.name): {"off": 0.90, "after 8": 0.68, "after 5": 0.55},
    ("W1", E2E.name): {"off": 0.90, "after 8": 0.78, "after 5": 0.70},
    ("W2", REQUESTS.name): {"off": 1.15, "after 8": 1.5, "after 5": 1.95},
    ("W3", TOKENS.name): {"off": 1.2, "after 8": 1.5, "after 5": 1.75},
    ("W4", REQUESTS.name): {"off": 1.2, "after 8": 1.2, "after 5": 1.2},
    ("W5", TOKENS.name): {"off": 1.15},
    ("W6", TTFT.name): {"off": 0.8, "after 8": 0.6, "after 5": 0.5},
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest over ``count`` rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None without values."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one workload: each entry's values, the better peer, ratios to it."""

    workload: str
    figure: Figure
    values: Mapping[str, Spread]
    better: str | None
    ratios: Mapping[str, Spread]

    def goal(self, entry: str) -> float | None:
        """The ratio that ``entry`` should reach, if there is one."""
        goals = GOALS.get((self.workload, self.figure.name), {})
        return goals.get(entry.partition(" ")[2])

    def met(self, entry: str) -> bool | None:
        """Whether it does, by its median; None where nothing was asked or measured."""
        goal, ratio = self.goal(entry), self.ratios.get(entry)
        if goal is None or ratio is None:
            return None
        return ratio.median >= goal if self.figure.higher_is_better else ratio.median <= goal


def compare(records: Sequence[Record], peers: Sequence[str]) -> list[Row]:
    """A row for every figure of every workload that was run, in W1–W7's order."""
    runs = kept(records)
    return [
        _row(runs, workload.name, figure, peers)
        for workload in WORKLOADS.values()
        for figure in workload.figures
        if any(place.workload == workload.name for place in runs)
    ]


def _row(runs: Mapping[Place, Record], workload: str, figure: Figure, peers: Sequence[str]) -> Row:
    rounds: dict[str, dict[int, float]] = {}
    for place, record in runs.items():
        value = record.figures.get(figure.name)
        if place.workload == workload and value is not None:
            rounds.setdefault(place.entry, {})[place.round] = value
    values = {entry: spread for entry, of in rounds.items() if (spread := _spread(of.values()))}
    better = _better({peer: values[peer] for peer in peers if peer in values}, figure)
    ratios = {}
    if better is not None:
        for entry, own in rounds.items():
            shared = own.keys() & rounds[better].keys()
            if ratio := _spread(own[each] / rounds[better][each] for each in shared):
                ratios[entry] = ratio
    return Row(workload, figure, values, better, ratios)


def _spread(values: Iterable[float]) -> Spread | None:
    return Spread.of(list(values))


def _better(values: Mapping[str, Spread], figure: Figure) -> str | None:
    if not values:
        return None
    pick = max if figure.higher_is_better else min
    return pick(values, key=lambda peer: values[peer].median)


@dataclass(frozen=True, slots=True)
class Check:
    """Whether all entries of a workload were given, and gave, the same number of tokens."""

    workload: str
    prompt_tokens: Mapping[str, int | None]
    output_tokens: Mapping[str, int]
    failed: Mapping[str, int]

    @property
    def even(self) -> bool:
        """True if they are equal, up to the one token that a template may differ by."""
        prompts = [each for each in self.prompt_tokens.values() if each is not None]
        level = not prompts or max(prompts) - min(prompts) <= 1
        return level and len(set(self.output_tokens.values())) <= 1


def checks(records: Sequence[Record]) -> list[Check]:
    """Tokens of a request (medians) and failures (sums), per workload and entry."""
    by: dict[str, dict[str, list[Record]]] = {}
    for record in kept(records).values():
        by.setdefault(record.workload, {}).setdefault(record.entry, []).append(record)
    return [
        Check(
            workload,
            {name: _middle(_all_prompts(runs)) for name, runs in entries.items()},
            {name: _middle(_all_outputs(runs)) or 0 for name, runs in entries.items()},
            {name: sum(run.summary["failed"] for run in runs) for name, runs in entries.items()},
        )
        for workload, entries in by.items()
    ]


def _all_prompts(runs: Sequence[Record]) -> list[int]:
    return [tokens for run in runs for tokens in run.prompt_tokens if tokens is not None]


def _all_outputs(runs: Sequence[Record]) -> list[int]:
    return [tokens for run in runs for tokens in run.output_tokens]


def _middle(tokens: Sequence[int]) -> int | None:
    return round(statistics.median(tokens)) if tokens else None
