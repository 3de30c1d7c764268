"""From outcomes to figures: quantiles, rates, reasons of failure, exits.

Seconds and ratios throughout; ``as_json`` is what `--json` writes.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dyvte.bench.load import Run
from dyvte.bench.stream import Answer, Exit


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and quantiles of one quantity, linearly interpolated between samples."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quantiles | None:
        """None without samples."""
        if not samples:
            return None
        ordered = sorted(samples)
        p50, p90, p99 = (_quantile(ordered, q) for q in (0.5, 0.9, 0.99))
        return cls(statistics.fmean(ordered), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Exits:
    """What our servers reported: mean share of the FLOPs saved, and where images left."""

    requests: int
    exited: int
    saved_ratio_mean: float
    exit_layer_mean: float | None
    exit_layers: dict[str, int]

    @classmethod
    def of(cls, exits: Sequence[Exit]) -> Exits | None:
        """None if the server said nothing of exits."""
        if not exits:
            return None
        layers = sorted(e.exit_layer for e in exits if e.exit_layer is not None)
        return cls(
            requests=len(exits),
            exited=len(layers),
            saved_ratio_mean=statistics.fmean(e.saved_ratio for e in exits),
            exit_layer_mean=statistics.fmean(layers) if layers else None,
            exit_layers={str(layer): n for layer, n in Counter(layers).items()},
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures; times in seconds."""

    requests: int
    failed: int
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    prompt_tokens_mean: float | None
    output_tokens_mean: float | None
    ttft: Quantiles | None
    tpot: Quantiles | None
    itl: Quantiles | None
    e2e: Quantiles | None
    exits: Exits | None
    reasons: dict[str, int]

    @classmethod
    def of(cls, run: Run) -> Summary:
        """Failed requests count in ``failed`` and ``reasons`` and nowhere else."""
        answers = run.answers
        prompts = [a.prompt_tokens for a in answers if a.prompt_tokens is not None]
        return cls(
            requests=len(run.outcomes),
            failed=len(run.failures),
            seconds=run.seconds,
            requests_per_second=len(answers) / run.seconds,
            tokens_per_second=sum(a.tokens for a in answers) / run.seconds,
            prompt_tokens_mean=statistics.fmean(prompts) if prompts else None,
            output_tokens_mean=statistics.fmean(a.tokens for a in answers) if answers else None,
            **_times(answers),
            exits=Exits.of([a.exit for a in answers if a.exit is not None]),
            reasons=dict(Counter(f.reason for f in run.failures).most_common()),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, nested as the fields are."""
        return asdict(self)


def _times(answers: Sequence[Answer]) -> dict[str, Quantiles | None]:
    return {
        "ttft": Quantiles.of([a.ttft for a in answers]),
        "tpot": Quantiles.of([a.tpot for a in answers if a.tpot is not None]),
        "itl": Quantiles.of([gap for a in answers for gap in a.gaps]),
        "e2e": Quantiles.of([a.total for a in answers]),
    }


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
