"""From samples to curves: means per layer, shares with their intervals, and all of it as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from dyvte.analysis.profile import Layer
from dyvte.analysis.study import Studied, Study

Z95 = 1.959964
NEVER = -1  # the "exit layer" of samples whose image stayed


@dataclass(frozen=True, slots=True)
class Point:
    """A mean over ``count`` samples and the standard error of it; None where there are none."""

    mean: float | None
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Point:
        """Of the values that are there."""
        seen = [value for value in values if value is not None]
        if not seen:
            return cls(None, None, 0)
        mean = math.fsum(seen) / len(seen)
        if len(seen) == 1:
            return cls(mean, None, 1)
        spread = math.fsum((value - mean) ** 2 for value in seen) / (len(seen) - 1)
        return cls(mean, math.sqrt(spread / len(seen)), len(seen))


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``count``, and Wilson's 95 % interval."""

    hits: int
    count: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        """Of at least one outcome."""
        seen = list(outcomes)
        hits, n = sum(seen), len(seen)
        p, z = hits / n, Z95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        wide = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return cls(hits, n, p, max(0.0, middle - wide), min(1.0, middle + wide))


def curve(
    study: Study, layers: Callable[[Studied], list[Layer]], value: Callable[[Layer], float | None]
) -> list[Point]:
    """One point per layer."""
    columns = [layers(sample) for sample in study.samples]
    return [
        Point.of(value(column[at]) for column in columns if at < len(column))
        for at in range(study.num_layers)
    ]


@dataclass(frozen=True, slots=True)
class ScoreCurve:
    """Accuracy (None without given answers) and agreement per forced exit layer."""

    layers: list[int]
    accuracy: list[Share] | None
    whole: Share | None
    agreement: list[Share]


def score_curve(samples: Sequence[Studied]) -> ScoreCurve | None:
    """Over the samples that were answered; None if none was."""
    tried = [sample.forced for sample in samples if sample.forced is not None]
    if not tried:
        return None
    layers = sorted(tried[0].agrees)
    graded = [(each.whole, each.right) for each in tried if each.right is not None]
    agreement = [Share.of(each.agrees[layer] for each in tried) for layer in layers]
    if not graded:
        return ScoreCurve(layers, None, None, agreement)
    accuracy = [Share.of(right[layer] for _, right in graded) for layer in layers]
    return ScoreCurve(layers, accuracy, Share.of(bool(whole) for whole, _ in graded), agreement)


def kinds(study: Study) -> list[str]:
    """Kinds of questions, the most frequent first."""
    counted = Counter(sample.kind for sample in study.samples)
    return [kind for kind, _ in counted.most_common()]


def exit_counts(study: Study) -> dict[str, dict[int, int]]:
    """Samples per exit layer (``NEVER``: the image stayed), for each kind."""
    return {
        kind: dict(
            sorted(
                Counter(
                    NEVER if sample.exit_layer is None else sample.exit_layer
                    for sample in study.samples
                    if sample.kind == kind
                ).items()
            )
        )
        for kind in kinds(study)
    }


def as_json(study: Study) -> dict[str, Any]:
    """All numbers behind the figures, and every sample's own."""
    names = ("w_visual", "w_cross", "w_text", "cross_entropy", "text_entropy")
    sides: dict[str, Callable[[Studied], list[Layer]]] = {
        "without_exit": lambda sample: sample.without,
        "with_exit": lambda sample: sample.exited,
    }
    options = study.options
    by_kind = {
        kind: score_curve([sample for sample in study.samples if sample.kind == kind])
        for kind in kinds(study)
    }
    whole = score_curve(study.samples)
    return {
        "num_layers": study.num_layers,
        "options": {**asdict(options), "figures": sorted(options.figures)},
        "samples": len(study.samples),
        "text_only": study.text_only,
        "skipped": [asdict(skip) for skip in study.skips.rows],
        "attention": {
            side: {
                name: [asdict(point) for point in curve(study, layers, attrgetter(name))]
                for name in names
            }
            for side, layers in sides.items()
        },
        "score": asdict(whole) if whole else None,
        "score_by_kind": {kind: asdict(each) for kind, each in by_kind.items() if each},
        "exit_layers": {
            kind: {str(layer): count for layer, count in counts.items()}
            for kind, counts in exit_counts(study).items()
        },
        "per_sample": [asdict(sample) for sample in study.samples],
    }
