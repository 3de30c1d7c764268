"""What exits were measured to do: a curve per policy, and what ``max_risk`` means on it.

Learn-then-test (Angelopoulos, Bates, Candès, Jordan, Lei 2021, arXiv 2110.01052) with fixed-
sequence testing: the settings of a policy stand in a fixed order from careful to bold, each
with an exact binomial p-value for "the share of changed answers exceeds r". ``max_risk`` r is
the boldest setting such that it and every more careful one has P(Bin(n, r) ≤ k) ≤ 1 − confidence;
the order costs no correction however fine the grid is. Then, with that confidence over the draw
of the calibration samples, the true risk of the setting chosen is at most r. Plain conformal
risk control would bound the expectation over such draws only.

Assumed: the samples are drawn like the traffic and independently of each other, decoding is
greedy, and answers are no longer than those measured. Broken by: shift of pictures or questions,
sampling temperature, longer answers, several questions about one picture, samples that the gates
were trained on. Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from dyvte.exits.binomial import upper_bound

CONFIDENCE = 0.95
SINGLE, CONVERSATION = "single", "conversation"
KINDS = (SINGLE, CONVERSATION)

# Where the thresholds log((1 − a)/a) lie: fine around 0, where the logits of a fitted gate are,
# and out to margins that only a gate far from any calibration has. Fixed for all models and
# data: a grid that followed the samples would cost the p-values their exactness.
STEPS, SPREAD, FARTHEST = 120, 4.0, 36.0


def grid() -> tuple[float, ...]:
    """Aggressiveness from careful to bold; 0.5 is in the middle, 1 the last."""
    ends = math.asinh(FARTHEST / SPREAD)
    margins = [SPREAD * math.sinh(ends * i / STEPS) for i in range(STEPS, -STEPS - 1, -1)]
    return (*(_aggressiveness(margin) for margin in margins), 1.0)


def _aggressiveness(margin: float) -> float:
    """The a with log((1 − a)/a) = margin."""
    return 1.0 / (1.0 + math.exp(margin))


@dataclass(frozen=True, slots=True)
class Point:
    """One setting: aggressiveness, or the exit layer for ``fixed``.

    ``upper`` bounds the share of changed answers at the curve's confidence, for this point
    alone. ``prefill_saved`` and ``request_saved`` are mean ratios of FLOPs (the policy's own
    cost counted). ``exits[l]`` counts samples that left after layer l, its last entry those
    that never did.
    """

    setting: float
    changed: int
    upper: float
    prefill_saved: float = 0.0
    request_saved: float = 0.0
    exits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A policy's points from careful to bold, measured on the same ``samples``."""

    samples: int
    points: tuple[Point, ...]

    def boldest(self, risk: float) -> Point | None:
        """The last point such that it and all before it hold ``risk``; None if not even one.

        ``upper ≤ risk`` says the same as a p-value of at most 1 − confidence.
        """
        worst = accumulate((point.upper for point in self.points), max)
        held = [point for point, upper in zip(self.points, worst, strict=True) if upper <= risk]
        return held[-1] if held else None

    def at(self, setting: float) -> Point | None:
        """What was measured at ``setting``: the boldest point that is not bolder.

        None below the first.
        """
        bolder = self._bolder
        reached = [p for p in self.points if p.setting == setting or bolder(setting, p.setting)]
        return reached[-1] if reached else None

    def lowest_risk(self, confidence: float) -> float:
        """The smallest risk that so many samples could prove."""
        return upper_bound(0, self.samples, confidence)

    def _bolder(self, one: float, other: float) -> bool:
        """True if ``one`` is bolder: a larger aggressiveness, but an earlier layer."""
        ascending = self.points[0].setting <= self.points[-1].setting
        return one > other if ascending else one < other


def measured(
    settings: Sequence[float],
    changed: Sequence[int],
    samples: int,
    confidence: float,
    prefill_saved: Sequence[float],
    request_saved: Sequence[float],
    exits: Sequence[Sequence[int]],
) -> Curve:
    """A curve from columns, one entry a setting, in their order from careful to bold.

    Of neighbours that sent every sample out at the same layers only the first is kept, which is
    the most careful of them, and 0.5.
    """
    points: list[Point] = []
    rows = zip(settings, changed, prefill_saved, request_saved, exits, strict=True)
    seen: tuple[int, ...] = ()
    for setting, k, prefill, request, counts in rows:
        if points and tuple(counts) == seen and points[-1].changed == k and setting != 0.5:
            continue
        seen = tuple(int(count) for count in counts)
        upper = _rounded_up(upper_bound(int(k), samples, confidence))
        points.append(Point(setting, int(k), upper, round(prefill, 6), round(request, 6), seen))
    return Curve(samples, tuple(points))


def _rounded_up(value: float) -> float:
    """Six decimals, never below ``value``: what is stored must not promise more."""
    return min(1.0, math.ceil(value * 1e6) / 1e6)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything ``dyvte calibrate`` measured, as it stands in a gate card.

    ``curves[policy][kind]`` with kind ``single`` or ``conversation``; ``default`` is the policy
    that the server uses; ``max_answer_tokens`` the longest answer among the samples;
    ``collection`` the digest of the data file; ``notes`` say on which model and settings.
    """

    confidence: float
    curves: Mapping[str, Mapping[str, Curve]]
    default: str | None = None
    max_answer_tokens: int = 0
    collection: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def curve(self, policy: str, conversation: bool) -> Curve | None:
        """The curve that fits a prompt, if it was measured."""
        return self.curves.get(policy, {}).get(CONVERSATION if conversation else SINGLE)

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``of`` reads them back to an equal object."""
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Calibration:
        """Read what ``as_json`` wrote. Raises ValueError."""
        try:
            curves = {
                str(policy): {str(kind): _curve(curve) for kind, curve in kinds.items()}
                for policy, kinds in value["curves"].items()
            }
            return cls(**{**value, "curves": curves})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a calibration: {error}") from error


def _curve(value: Mapping[str, Any]) -> Curve:
    points = tuple(Point(**{**each, "exits": tuple(each["exits"])}) for each in value["points"])
    if not points:
        raise ValueError("not a calibration: a curve without points")
    return Curve(int(value["samples"]), points)
