"""What the engine reports, as Prometheus families: its steps, its state, and who listens to it.

An ``Observer``: called from the engine's thread after each step and each finished request, it
only adds to counters (``benchmarks/metrics_cost.py`` measures what that takes). Gauges ask the
engine when they are scraped.
"""

from __future__ import annotations

from collections.abc import Callable

from dyvte.engine.events import ModelInfo
from dyvte.engine.stats import EngineSnapshot, RequestStats, ShadowStats, StepStats, UnfinishedStats
from server.metric_families import Families
from server.request_metrics import RequestMetrics
from server.shadow_metrics import ShadowMetrics

STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
VISION_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class EngineMetrics:
    """Adds the families of steps and of the engine's state; hands requests and shadows on."""

    def __init__(
        self, families: Families, requests: RequestMetrics, shadows: ShadowMetrics
    ) -> None:
        self._requests = requests
        self._shadows = shadows
        self._step_seconds = families.histogram(
            "dyvte_step_seconds",
            "Seconds of an engine step: prefills and one token for each running sequence.",
            STEP_SECONDS,
        )()
        rows = families.counter(
            "dyvte_step_rows",
            "Rows of packed batches: prompt tokens in prefill, sequences in decode.",
            phase=("prefill", "decode"),
        )
        self._prefill_rows, self._decode_rows = rows("prefill"), rows("decode")
        self._gate_seconds = families.counter(
            "dyvte_gate_seconds", "Seconds that the engine spent asking exit gates."
        )()
        self._vision_seconds = families.histogram(
            "dyvte_vision_encoder_seconds",
            "Seconds of vision tower and projector, per step that encoded images.",
            VISION_SECONDS,
        )()

    def on_step(self, step: StepStats) -> None:
        """Rows of a step, and where its seconds went."""
        self._step_seconds.observe(step.seconds)
        if step.prefill_rows:
            self._prefill_rows.inc(step.prefill_rows)
        if step.decode_rows:
            self._decode_rows.inc(step.decode_rows)
        if step.gate_seconds > 0:
            self._gate_seconds.inc(step.gate_seconds)
        if step.vision_seconds > 0:
            self._vision_seconds.observe(step.vision_seconds)

    def on_finish(self, stats: RequestStats) -> None:
        """The account of one request."""
        self._requests.count(stats)

    def on_unfinished(self, stats: UnfinishedStats) -> None:
        """The account of a request without an answer."""
        self._requests.count_unfinished(stats)

    def on_shadow(self, shadow: ShadowStats) -> None:
        """One answer, once more without its exit."""
        self._shadows.count(shadow)


def add_state(families: Families, snapshot: Callable[[], EngineSnapshot]) -> None:
    """Gauges of the engine now; ``snapshot`` is called by whoever writes a page."""

    def gauge(name: str, text: str, read: Callable[[EngineSnapshot], float]) -> None:
        families.gauge(name, text)().set_function(lambda: float(read(snapshot())))

    gauge(
        "dyvte_requests_running",
        "Sequences in the batch now; each choice of a request is one.",
        lambda now: now.running,
    )
    gauge(
        "dyvte_requests_waiting",
        "Requests that wait for their prefill now, preempted sequences included.",
        lambda now: now.waiting,
    )
    gauge(
        "dyvte_kv_cache_usage_ratio",
        "Share of the KV pages that is in use now, 0 to 1.",
        lambda now: now.kv_usage,
    )
    gauge(
        "dyvte_kv_bytes_saved",
        "Bytes of keys and values that running sequences would hold on top without exits.",
        lambda now: now.kv_bytes_saved,
    )


def add_build_info(families: Families, info: ModelInfo, version: str) -> None:
    """What runs, in the labels of one constant."""
    labels = {
        "version": version,
        "model_family": info.family,
        "dtype": info.dtype,
        "device": info.device,
        "attention": info.attention,
    }
    only = {name: (value,) for name, value in labels.items()}
    made = families.gauge("dyvte_build_info", "What runs, in the labels; always 1.", **only)
    made(*labels.values()).set(1)
