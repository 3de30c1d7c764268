"""What the engine reports, as Prometheus families: tokens, FLOPs, exits, latencies, gauges.

An ``Observer``: called from the engine's thread after each step and each finished request, it
only adds to counters. Gauges ask the engine when they are scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dyvte.engine.events import Engine
from dyvte.engine.stats import EngineSnapshot, ExitOutcome, RequestStats, ShadowStats, StepStats
from dyvte.flops import FlopsReport
from server.shadow_metrics import ShadowMetrics

PHASES = ("vision", "prefill", "decode", "head", "gates")
CACHES = ("image", "prefix")

QUEUE_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREFILL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
DECODE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
ITL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
VISION_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FLOPS = tuple(digit * 10.0**power for power in range(7, 15) for digit in (1, 2, 5))
SAVED_RATIO = (-0.1, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0)
AGGRESSIVENESS = tuple(step / 10 for step in range(11))


class EngineMetrics:
    """Families that exist once a model is loaded; all children are made here."""

    def __init__(
        self,
        registry: CollectorRegistry,
        model_name: str,
        engine: Engine,
        policies: Sequence[str],
        version: str,
        shadows: ShadowMetrics,
    ) -> None:
        self._registry = registry
        self._model = model_name
        self._policies = tuple(policies)
        self._shadows = shadows
        self._gauges(engine)
        self._build_info(engine, version)
        self._make_counters()
        self._make_histograms(engine.info.num_layers)

    def on_step(self, step: StepStats) -> None:
        """Seconds of gates and vision tower."""
        self._gate_seconds.inc(step.gate_seconds)
        if step.vision_seconds > 0:
            self._vision_seconds.observe(step.vision_seconds)

    def on_finish(self, stats: RequestStats) -> None:
        """The account of one request."""
        self._count_tokens(stats)
        self._count_flops(stats.flops, stats.policy)
        self._observe_times(stats)
        self._outcomes.labels(self._model, stats.outcome.value).inc()
        if stats.exit_layer is not None:
            self._exit_layer.labels(self._model, stats.policy).observe(stats.exit_layer)
        if stats.aggressiveness is not None:
            self._aggressiveness.observe(stats.aggressiveness)

    def on_shadow(self, shadow: ShadowStats) -> None:
        """One answer, once more without its exit."""
        self._shadows.count(shadow)

    def _count_tokens(self, stats: RequestStats) -> None:
        self._prompt_tokens.inc(stats.prompt_tokens)
        self._generation_tokens.inc(stats.completion_tokens)
        self._visual_tokens.inc(stats.visual_tokens)
        text = stats.prompt_tokens - stats.visual_tokens
        executed = sum(max(0, rows - text) for rows in stats.tokens_per_layer)
        skipped = stats.visual_tokens * len(stats.tokens_per_layer) - executed
        self._token_layers.labels(self._model, "executed").inc(executed)
        self._token_layers.labels(self._model, "skipped").inc(max(0, skipped))

    def _count_flops(self, flops: FlopsReport, policy: str) -> None:
        # A cache spares whole rows of the prefill, vision first.
        vision = max(0, flops.vision - flops.avoided_by_cache)
        spared = flops.avoided_by_cache - (flops.vision - vision)
        executed = {
            "vision": vision,
            "prefill": max(0, flops.prefill - spared),
            "decode": flops.decode,
            "head": flops.head,
            "gates": flops.gates,
        }
        for phase, amount in executed.items():
            self._flops.labels(self._model, phase, policy).inc(amount)
        self._baseline.labels(self._model, policy).inc(flops.baseline)
        self._saved.labels(self._model, policy).inc(max(0, flops.saved))
        self._overspent.labels(self._model, policy).inc(max(0, -flops.saved))
        self._request_flops.labels(self._model, policy).observe(flops.total)
        self._saved_ratio.labels(self._model, policy).observe(flops.saved_ratio)

    def _observe_times(self, stats: RequestStats) -> None:
        timings = stats.timings
        self._queue.observe(timings.queue)
        self._prefill.labels(self._model, stats.policy).observe(timings.prefill)
        self._decode.labels(self._model, stats.policy).observe(timings.decode)
        itl = self._itl.labels(self._model, stats.policy)
        for gap in stats.itl:
            itl.observe(gap)

    def _gauges(self, engine: Engine) -> None:
        def gauge(name: str, text: str, read: Callable[[EngineSnapshot], float]) -> None:
            made = Gauge(name, text, ("model_name",), registry=self._registry)
            made.labels(self._model).set_function(lambda: float(read(engine.snapshot())))

        gauge("dyvte_requests_running", "Requests in the batch.", lambda now: now.running)
        gauge("dyvte_requests_waiting", "Requests in the line.", lambda now: now.waiting)
        gauge("dyvte_kv_cache_usage_ratio", "KV pages in use.", lambda now: now.kv_usage)
        gauge("dyvte_kv_bytes_saved", "KV bytes spared now.", lambda now: now.kv_bytes_saved)

    def _build_info(self, engine: Engine, version: str) -> None:
        info = engine.info
        labels = {
            "model_name": self._model,
            "version": version,
            "model_family": info.family,
            "dtype": info.dtype,
            "device": info.device,
            "attention": info.attention,
        }
        gauge = Gauge("dyvte_build_info", "What runs; 1.", tuple(labels), registry=self._registry)
        gauge.labels(**labels).set(1)

    def _make_counters(self) -> None:
        self._prompt_tokens = self._plain("dyvte_prompt_tokens", "Prompt tokens, visual included.")
        self._generation_tokens = self._plain("dyvte_generation_tokens", "Tokens generated.")
        self._visual_tokens = self._plain("dyvte_visual_tokens", "Visual tokens of prompts.")
        self._gate_seconds = self._plain("dyvte_gate_seconds", "Seconds spent asking gates.")
        self._flops = self._counter(
            "dyvte_flops", "FLOPs executed.", phase=PHASES, policy=self._policies
        )
        self._baseline = self._counter(
            "dyvte_flops_baseline", "FLOPs had nothing left early.", policy=self._policies
        )
        self._saved = self._counter(
            "dyvte_flops_saved", "FLOPs saved by requests that saved.", policy=self._policies
        )
        self._overspent = self._counter(
            "dyvte_flops_overspent", "FLOPs lost by requests that lost.", policy=self._policies
        )
        self._counter("dyvte_flops_avoided", "FLOPs that a cache spared.", cache=CACHES)
        self._outcomes = self._counter(
            "dyvte_exit_outcomes",
            "What became of visual tokens.",
            outcome=[outcome.value for outcome in ExitOutcome],
        )
        self._token_layers = self._counter(
            "dyvte_visual_token_layers",
            "Visual tokens times layers, at prefill.",
            state=("executed", "skipped"),
        )

    def _make_histograms(self, num_layers: int) -> None:
        layers = tuple(float(layer) for layer in range(num_layers))
        by = self._by_policy
        self._itl = by("dyvte_inter_token_latency_seconds", "Between tokens.", ITL_SECONDS)
        self._prefill = by("dyvte_request_prefill_seconds", "Prefill.", PREFILL_SECONDS)
        self._decode = by("dyvte_request_decode_seconds", "Decode.", DECODE_SECONDS)
        self._request_flops = by("dyvte_request_flops", "FLOPs of a request.", FLOPS)
        self._saved_ratio = by(
            "dyvte_request_flops_saved_ratio", "Share of FLOPs saved.", SAVED_RATIO
        )
        self._exit_layer = by(
            "dyvte_request_exit_layer", "Exit layer of requests that exited.", layers
        )
        self._queue = self._histogram("dyvte_request_queue_seconds", "Waiting.", QUEUE_SECONDS)
        self._aggressiveness = self._histogram(
            "dyvte_request_aggressiveness", "Aggressiveness in force.", AGGRESSIVENESS
        )
        self._vision_seconds = self._histogram(
            "dyvte_vision_encoder_seconds", "Vision tower and projector, a step.", VISION_SECONDS
        )

    def _plain(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model_name",), registry=self._registry).labels(self._model)

    def _counter(self, name: str, text: str, **labels: Sequence[str]) -> Counter:
        made = Counter(name, text, ("model_name", *labels), registry=self._registry)
        first, *more = labels.values()
        for value in first:
            for rest in [(other,) for other in more[0]] if more else [()]:
                made.labels(self._model, value, *rest)
        return made

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(name, text, ("model_name",), buckets=buckets, registry=self._registry)
        return made.labels(self._model)

    def _by_policy(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        labels = ("model_name", "policy")
        made = Histogram(name, text, labels, buckets=buckets, registry=self._registry)
        for policy in self._policies:
            made.labels(self._model, policy)
        return made
