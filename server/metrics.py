"""``/metrics``: the HTTP side, and the registry that the engine's side shares.

One registry per app, no global state. Label sets are closed and every child exists from the
start, so that a rate never begins with a hole and no client can grow the page. The names are a
contract (docs); buckets are chosen for the quantity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest

from dyvte.engine.events import Engine
from dyvte.params import FinishReason
from server.engine_metrics import EngineMetrics
from server.images import ImageFault
from server.shadow_metrics import ShadowMetrics

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{id}",
    "/health",
    "/ready",
    "/metrics",
    "/version",
    "/",
    "other",
)
STATUSES = ("200", "400", "401", "404", "405", "408", "413", "429", "499", "500", "503", "other")
REFUSALS = ("queue_full", "not_ready", "draining", "body_too_large", "invalid_prompt")
STAGES = ("fetch", "decode", "preprocess")
CACHES = ("image", "prefix")

MEDIA_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TTFT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATION_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


def endpoint_of(path: str) -> str:
    """The closed label of a path."""
    if path in ENDPOINTS:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"


class ServerMetrics:
    """What the server counts itself; ``bind`` adds what a loaded engine reports."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        self._requests = self._counter(
            "dyvte_requests", "HTTP requests.", {"endpoint": ENDPOINTS, "status_code": STATUSES}
        )
        finished = (FinishReason.STOP.value, FinishReason.LENGTH.value)
        self._success = self._counter(
            "dyvte_request_success", "Requests that got an answer.", {"finish_reason": finished}
        )
        self._refusals = self._counter(
            "dyvte_admission_rejections", "Requests that were not admitted.", {"reason": REFUSALS}
        )
        self._media = Histogram(
            "dyvte_media_seconds",
            "Seconds per image by stage.",
            ("model_name", "stage"),
            buckets=MEDIA_SECONDS,
            registry=self.registry,
        )
        for stage in STAGES:
            self._media.labels(model_name, stage)
        self._media_errors = self._counter(
            "dyvte_media_errors",
            "Images refused.",
            {"reason": [fault.value for fault in ImageFault]},
        )
        self._counter("dyvte_cache_queries", "Look-ups in a cache.", {"cache": CACHES})
        self._counter("dyvte_cache_hits", "Look-ups that hit.", {"cache": CACHES})
        self._ttft: Histogram | None = None
        self._duration: Histogram | None = None

    def bind(
        self,
        engine: Engine,
        version: str,
        shadow_share: float = 0.0,
        promised_risk: float | None = None,
    ) -> None:
        """Add the engine's families and listen to it."""
        policies = policies_of(engine)
        shadows = ShadowMetrics(self.registry, self._model, policies, shadow_share, promised_risk)
        self._ttft = self._by_policy(
            "dyvte_time_to_first_token_seconds",
            "Arrival to first token.",
            TTFT_SECONDS,
            policies,
        )
        self._duration = self._by_policy(
            "dyvte_request_duration_seconds", "Arrival to last token.", DURATION_SECONDS, policies
        )
        engine.observe(
            EngineMetrics(self.registry, self._model, engine, policies, version, shadows)
        )

    def page(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The families without the series that tell when each counter was made."""
        for family in self.registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family

    def request(self, path: str, status: int) -> None:
        """An HTTP request ended."""
        label = str(status) if str(status) in STATUSES else "other"
        self._requests.labels(self._model, endpoint_of(path), label).inc()

    def refusal(self, reason: str) -> None:
        """A request was not admitted."""
        self._refusals.labels(self._model, reason).inc()

    def answered(self, finish_reason: FinishReason, policy: str, ttft: float, total: float) -> None:
        """A request got its answer; seconds count from its arrival."""
        self._success.labels(self._model, finish_reason.value).inc()
        if self._ttft is not None and self._duration is not None:
            self._ttft.labels(self._model, policy).observe(ttft)
            self._duration.labels(self._model, policy).observe(total)

    def media_seconds(self, stage: str, seconds: float) -> None:
        """One image passed a stage."""
        self._media.labels(self._model, stage).observe(seconds)

    def media_error(self, reason: str) -> None:
        """One image was refused."""
        self._media_errors.labels(self._model, reason).inc()

    def _counter(self, name: str, text: str, labels: dict[str, Sequence[str]]) -> Counter:
        """A counter with a child for every combination of ``labels``' values."""
        counter = Counter(name, text, ("model_name", *labels), registry=self.registry)
        combinations: list[tuple[str, ...]] = [()]
        for values in labels.values():
            combinations = [(*head, value) for head in combinations for value in values]
        for combination in combinations:
            counter.labels(self._model, *combination)
        return counter

    def _by_policy(
        self, name: str, text: str, buckets: Sequence[float], policies: Sequence[str]
    ) -> Histogram:
        labels = ("model_name", "policy")
        made = Histogram(name, text, labels, buckets=buckets, registry=self.registry)
        for policy in policies:
            made.labels(self._model, policy)
        return made


def policies_of(engine: Engine) -> tuple[str, ...]:
    """The closed set of policy labels: what requests may name, and "off"."""
    return tuple(dict.fromkeys((*engine.info.policies, "off")))
