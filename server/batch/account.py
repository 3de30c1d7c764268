"""What a batch came to: lines, errors, tokens, FLOPs. Counted for this run alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dyvte.engine.stats import RequestStats, ShadowStats, StepStats, UnfinishedStats


@dataclass(slots=True)
class Account:
    """``lines`` of the input, ``earlier`` of them answered before, ``answered`` now with a 200.

    ``errors`` counts the others by code; ``reasons`` has the first message of each. ``strangers``
    are answers in the output to lines that the input lacks. The engine tells tokens and FLOPs.
    """

    lines: int
    earlier: int = 0
    answered: int = 0
    strangers: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    flops: int = 0
    baseline: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Lines whose answer is an error."""
        return self.errors.total()

    @property
    def done(self) -> int:
        """Lines that need not be asked any more."""
        return self.earlier + self.answered + self.failed

    @property
    def saved_ratio(self) -> float:
        """Share of the FLOPs that exits and pruning spared."""
        return (self.baseline - self.flops) / self.baseline if self.baseline else 0.0

    def take(self, entry: Mapping[str, Any]) -> None:
        """Count one line of output."""
        response = entry["response"]
        if response is not None and response["status_code"] == 200:
            self.answered += 1
            return
        error = entry["error"] if response is None else response["body"]["error"]
        code = str(error["code"] or (response or {}).get("status_code"))
        self.errors[code] += 1
        self.reasons.setdefault(code, str(error["message"]))

    def on_finish(self, stats: RequestStats) -> None:
        """A request of the engine's has ended."""
        self.prompt_tokens += stats.prompt_tokens
        self.completion_tokens += stats.completion_tokens
        self.flops += stats.flops.total
        self.baseline += stats.flops.baseline

    def on_step(self, step: StepStats) -> None:
        """Steps are not counted."""

    def on_unfinished(self, stats: UnfinishedStats) -> None:
        """Not told: what is asked again is counted when it is answered."""

    def on_shadow(self, shadow: ShadowStats) -> None:
        """A batch has no shadow runs."""
