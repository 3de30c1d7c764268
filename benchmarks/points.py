"""The points of the cost curves, one JSON line each, and which of them are there already."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.jsonl import append, lines, open_session

TOKENS, BATCH, LAYERS, START = "tokens", "batch", "layers", "start"


class Place(NamedTuple):
    """Where a point belongs: at ``x`` of ``curve``, with ``seen`` layers that see the image."""

    curve: str
    x: int
    seen: int
    round: int


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement. Seconds, bytes and FLOPs; of a batch, those of one request.

    ``vision`` and ``prefill`` are those of the step that a request was in, ``step`` of one token.
    ``others`` are the cores that other processes used; more than a little, and it is not kept.
    """

    curve: str
    x: int
    seen: int
    round: int
    kept: bool
    others: float
    seconds: float
    vision: float = 0.0
    prefill: float = 0.0
    step: float = 0.0
    kv_bytes: int = 0
    prefill_flops: int = 0
    memory_bytes: int = 0
    session: str = ""

    @property
    def place(self) -> Place:
        """Where it belongs."""
        return Place(self.curve, self.x, self.seen, self.round)


@dataclass(slots=True)
class Points:
    """The files of one measurement, in ``folder``."""

    folder: Path
    session: str = field(default="", init=False)

    def open_session(self, circumstances: dict[str, Any]) -> None:
        """Say under which circumstances the next points are measured."""
        self.session = open_session(self.folder / "sessions.jsonl", circumstances)

    def append(self, point: Point) -> None:
        """Write one down."""
        append(self.folder / "points.jsonl", asdict(point) | {"session": self.session})

    def read(self) -> list[Point]:
        """All, the disturbed ones among them."""
        return [Point(**fields) for fields in lines(self.folder / "points.jsonl")]

    def kept(self) -> dict[Place, Point]:
        """The undisturbed ones."""
        return {point.place: point for point in self.read() if point.kept}

    def sessions(self) -> list[dict[str, Any]]:
        """Circumstances of the points that are kept."""
        used = {point.session for point in self.kept().values()}
        return [s for s in lines(self.folder / "sessions.jsonl") if s["session"] in used]

    def medians(self, curve: str, of: Callable[[Point], float]) -> dict[int, dict[int, float]]:
        """``of`` each point of ``curve``, over rounds: layers that see the image → x → median."""
        found: dict[int, dict[int, list[float]]] = {}
        for place, point in self.kept().items():
            if place.curve == curve:
                found.setdefault(place.seen, {}).setdefault(place.x, []).append(of(point))
        return {
            seen: {x: statistics.median(values) for x, values in sorted(at.items())}
            for seen, at in found.items()
        }
