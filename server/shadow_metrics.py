"""What shadow runs found, as Prometheus families: do exits still change as few answers as promised?

Counts only; the share of changed answers and its bound are the reader's to compute over the time
that matters (docs/shadow.md). Nothing here enters the families of requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from dyvte.engine.stats import ShadowOutcome, ShadowStats


class ShadowMetrics:
    """Families that exist once a model is loaded; all children are made here.

    ``promised`` is the highest share of changed answers that the server's default exits promise
    (``max_risk``); None, exported as NaN, where they promise none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        model_name: str,
        policies: Sequence[str],
        share: float,
        promised: float | None,
    ) -> None:
        self._model = model_name
        self._runs = Counter(
            "dyvte_shadow_runs",
            "Answers drawn for a run without exit, by what it said.",
            ("model_name", "policy", "outcome"),
            registry=registry,
        )
        for policy in policies:
            for outcome in ShadowOutcome:
                self._runs.labels(model_name, policy, outcome.value)
        labels = ("model_name",)
        flops = Counter("dyvte_shadow_flops", "FLOPs of shadow runs.", labels, registry=registry)
        self._flops = flops.labels(model_name)
        for name, text, value in (
            ("dyvte_shadow_share_ratio", "Share of answers drawn for a shadow run.", share),
            (
                "dyvte_promised_risk_ratio",
                "Share of changed answers that the default exits promise at most; NaN: none.",
                math.nan if promised is None else promised,
            ),
        ):
            Gauge(name, text, labels, registry=registry).labels(model_name).set(value)

    def count(self, shadow: ShadowStats) -> None:
        """One drawn answer is settled."""
        self._runs.labels(self._model, shadow.policy, shadow.outcome.value).inc()
        self._flops.inc(shadow.flops)
