"""Did a promise hold? From counts of changed answers per setting to how often it was exceeded.

Pure numbers: each calibration set chooses a setting by its own counts, as ``dyvte calibrate``
does, and the counts of a large test set drawn apart say what that setting really changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dyvte.exits.binomial import at_most, upper_bound
from dyvte.exits.calibration import Curve, Point


@dataclass(frozen=True, slots=True)
class Counts:
    """``changed[g]`` of ``samples`` answers at setting g, and the mean prefill saving there."""

    samples: int
    changed: Sequence[int]
    saved: Sequence[float]

    @classmethod
    def joined(cls, parts: Sequence[Counts]) -> Counts:
        """All parts as one. Raises ValueError if there are none."""
        if not parts:
            raise ValueError("no samples were collected yet")
        samples = sum(part.samples for part in parts)
        columns = zip(*(part.changed for part in parts), strict=True)
        weighted = zip(*([s * part.samples for s in part.saved] for part in parts), strict=True)
        return cls(samples, [sum(c) for c in columns], [sum(s) / samples for s in weighted])


@dataclass(frozen=True, slots=True)
class Kept:
    """How one promise fared over all calibration sets.

    ``exceeded`` sets chose a setting whose realised risk is above ``risk``; ``allowed`` is how
    many may, at most, in 95 of 100 such experiments with a bound that is exactly tight.
    ``clearly`` counts those where the test set's own noise cannot explain it (95 %, one-sided).
    """

    risk: float
    sets: int
    exceeded: int
    allowed: int
    clearly: int
    mean_realised: float
    worst_realised: float
    mean_saved: float
    without_exit: int

    @property
    def holds(self) -> bool:
        """True if the promise was broken no more often than its confidence allows."""
        return self.exceeded <= self.allowed


def kept(sets: Sequence[Counts], test: Counts, risk: float, confidence: float = 0.95) -> Kept:
    """Test the choices of all ``sets`` for one promised ``risk``."""
    chosen = [choose(each, risk, confidence) for each in sets]
    realised = [0.0 if at is None else test.changed[at] / test.samples for at in chosen]
    return Kept(
        risk=risk,
        sets=len(sets),
        exceeded=sum(each > risk for each in realised),
        allowed=allowed(len(sets), 1.0 - confidence),
        clearly=sum(at is not None and _refuted(test, at, risk) for at in chosen),
        mean_realised=fmean(realised),
        worst_realised=max(realised),
        mean_saved=fmean(0.0 if at is None else test.saved[at] for at in chosen),
        without_exit=sum(at is None for at in chosen),
    )


def _refuted(test: Counts, at: int, risk: float) -> bool:
    """True if so many changed answers would come of a true risk of ``risk`` in 5 % of cases."""
    changed = test.changed[at]
    return changed > 0 and 1.0 - at_most(changed - 1, test.samples, risk) <= 0.05


def choose(counts: Counts, risk: float, confidence: float) -> int | None:
    """Index of the setting that a set chooses for ``risk``; None: no exit."""
    points = tuple(
        Point(at, k, upper_bound(k, counts.samples, confidence))
        for at, k in enumerate(counts.changed)
    )
    point = Curve(counts.samples, points).boldest(risk)
    return None if point is None else int(point.setting)


def allowed(sets: int, miss: float) -> int:
    """The smallest m with P(Bin(sets, miss) ≤ m) ≥ 0.95."""
    return next(m for m in range(sets + 1) if at_most(m, sets, miss) >= 0.95)
