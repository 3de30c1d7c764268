"""The order of a campaign: rounds of workloads of entries, until every place has a quiet run.

Entries take turns within a workload, and begin with another one each round, so that a machine
that slows down slows all of them. A disturbed run is repeated at once, up to ``REPEATS`` times;
what is still missing then is tried again when the command is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.peers.processes import ServerFailed
from benchmarks.peers.records import Ledger, Place, Record, kept
from benchmarks.peers.servers import Entry
from benchmarks.peers.workloads import CAPACITY, SHARE_OF_CAPACITY, Workload

REPEATS = 2

Measure = Callable[[Entry, Workload, Place, int, int], Record]
"""(entry, workload, place, attempt, seed) → what came of it. Raises ServerFailed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place of the plan."""

    place: Place
    entry: Entry
    workload: Workload


def plan(entries: Sequence[Entry], workloads: Sequence[Workload], rounds: int) -> Iterator[Step]:
    """Every place in its order. With an open loop, the capacity it is a share of comes first."""
    if any(workload.open_loop for workload in workloads):
        for entry in _references(entries):
            yield Step(Place(0, CAPACITY.name, entry.name), entry, CAPACITY)
    for number in range(rounds):
        for workload in workloads:
            taking = [entry for entry in entries if entry.takes(workload.name)]
            turn = number % len(taking) if taking else 0
            for entry in taking[turn:] + taking[:turn]:
                yield Step(Place(number, workload.name, entry.name), entry, workload)


def _references(entries: Sequence[Entry]) -> list[Entry]:
    """Whose capacity decides the rate: the peers', or the first entry's where there are none."""
    able = [entry for entry in entries if entry.takes("W7")]
    return [entry for entry in able if entry.server.peer] or able[:1]


def rate(records: Sequence[Record]) -> float | None:
    """Requests a second of the open loop: a share of what the best reference took."""
    found = [
        record.figures["requests_per_second"]
        for place, record in kept(records).items()
        if place.workload == CAPACITY.name
    ]
    best = max((each for each in found if each), default=None)
    return None if best is None else SHARE_OF_CAPACITY * best


@dataclass(slots=True)
class Campaign:
    """Measures what a ledger lacks.

    ``deadline`` is of ``time.monotonic``: no run begins after it. ``say`` is told how it goes.
    """

    ledger: Ledger
    measure: Measure
    say: Callable[[str], None] = print
    deadline: float = float("inf")

    def run(self, steps: Sequence[Step]) -> list[Place]:
        """Go through ``steps``; return the places that still have no quiet run."""
        failed: set[str] = set()
        for number, step in enumerate(steps, 1):
            if step.place in kept(self.ledger.read()) or step.entry.server.name in failed:
                continue
            if time.monotonic() >= self.deadline:
                break
            self.say(f"[{number}/{len(steps)}] round {' '.join(map(str, step.place))}")
            try:
                self._measure(step)
            except ServerFailed as error:
                self.say(f"  {error}; left out from here on")
                failed.add(step.entry.server.name)
        done = kept(self.ledger.read())
        return [step.place for step in steps if step.place not in done]

    def _measure(self, step: Step) -> None:
        workload = step.workload
        if workload.open_loop:
            found = rate(self.ledger.read())
            if found is None:
                self.say("  no capacity was measured: no rate to arrive at")
                return
            workload = replace(workload, rate=found)
        for attempt in range(REPEATS + 1):
            began = time.monotonic()
            record = self.measure(step.entry, workload, step.place, attempt, step.place.round)
            self.ledger.append(record)
            self.say(f"  {_told(record)}, {time.monotonic() - began:.1f} s in all")
            if record.kept or time.monotonic() >= self.deadline:
                return


def _told(record: Record) -> str:
    values = ", ".join(
        f"{name} {value:.3f}" for name, value in record.figures.items() if value is not None
    )
    state = "kept" if record.kept else "DISTURBED"
    failures = f", {record.summary['failed']} FAILED" if record.summary["failed"] else ""
    return f"{state} (others {record.others:.2f} cores): {values}{failures}"
