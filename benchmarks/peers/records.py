"""What is kept of a run, one JSON line each, written as it ends: a campaign can be cut anywhere.

``runs.jsonl`` has the runs, the disturbed ones as well; ``sessions.jsonl`` the circumstances of
every time the command was started (command, commit, machine, versions), which runs name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.jsonl import append, lines, open_session


class Place(NamedTuple):
    """Which run of a campaign."""

    round: int
    workload: str
    entry: str


@dataclass(frozen=True, slots=True)
class Record:
    """One run. ``others`` are the cores that other processes used; seconds and bytes throughout.

    ``kept`` False: disturbed, not to be used. ``figures`` are None where no request was answered.
    ``start_seconds`` and ``start_others`` tell of the start of the server that it ran on.
    """

    session: str
    round: int
    workload: str
    entry: str
    attempt: int
    kept: bool
    others: float
    load: dict[str, Any]
    figures: dict[str, float | None]
    summary: dict[str, Any]
    prompt_tokens: list[int | None]
    output_tokens: list[int]
    ttft: list[float]
    e2e: list[float]
    start_seconds: float
    start_others: float
    memory_bytes: int

    @property
    def place(self) -> Place:
        """Where it belongs."""
        return Place(self.round, self.workload, self.entry)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The files of one campaign."""

    folder: Path

    @property
    def runs(self) -> Path:
        """One line a run."""
        return self.folder / "runs.jsonl"

    @property
    def sessions(self) -> Path:
        """One line each time the command was started."""
        return self.folder / "sessions.jsonl"

    def append(self, record: Record) -> None:
        """Write one run down."""
        append(self.runs, asdict(record))

    def open_session(self, circumstances: dict[str, Any]) -> str:
        """Write the circumstances down; return the name that runs give as ``session``."""
        return open_session(self.sessions, circumstances)

    def read(self) -> list[Record]:
        """All runs. A line that was cut in the middle is passed over: that run did not end."""
        return [Record(**fields) for fields in lines(self.runs)]

    def read_sessions(self) -> list[dict[str, Any]]:
        """All circumstances."""
        return list(lines(self.sessions))


def kept(records: Sequence[Record]) -> dict[Place, Record]:
    """The undisturbed run of each place; the first, if there should be several."""
    found: dict[Place, Record] = {}
    for record in records:
        if record.kept:
            found.setdefault(record.place, record)
    return found
