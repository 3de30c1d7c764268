"""What shadow runs found, as Prometheus families: do exits still change as few answers as promised?

Counts only; the share of changed answers and its bound are the reader's to compute over the time
that matters (docs/shadow.md). Nothing here enters the families of requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dyvte.engine.stats import ShadowOutcome, ShadowStats
from server.metric_families import Families


@dataclass(frozen=True, slots=True)
class Promise:
    """What the server's default exits promise for single turns.

    ``risk`` is the highest share of changed answers (``max_risk``), None where they promise none;
    ``policy`` is the label under which answers of these exits are counted.
    """

    policy: str
    risk: float | None = None


class ShadowMetrics:
    """Families that exist once a model is loaded; ``share`` is ``--shadow-share``."""

    def __init__(
        self, families: Families, policies: Sequence[str], share: float, promise: Promise
    ) -> None:
        self._runs = families.counter(
            "dyvte_shadow_runs",
            "Answers shaped by an exit or pruning and drawn for a run without, by what it said.",
            policy=policies,
            outcome=[outcome.value for outcome in ShadowOutcome],
        )
        self._flops = families.counter(
            "dyvte_shadow_flops", "FLOPs of shadow runs; in no other counter of FLOPs."
        )
        families.gauge(
            "dyvte_shadow_share_ratio",
            "Share of the answers shaped by an exit or pruning that is drawn for a shadow run.",
        )().set(share)
        families.gauge(
            "dyvte_promised_risk_ratio",
            "Share of changed answers that the default exits promise at most; NaN: none.",
            policy=(promise.policy,),
        )(promise.policy).set(math.nan if promise.risk is None else promise.risk)

    def count(self, shadow: ShadowStats) -> None:
        """One drawn answer is settled."""
        self._runs(shadow.policy, shadow.outcome.value).inc()
        self._flops().inc(shadow.flops)
