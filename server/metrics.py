"""``/metrics``: the HTTP side, and the registry that the engine's side shares.

One registry per app, no global state. Label sets are closed and every child exists from the
start (``server.metric_families``). The names are a contract (docs); buckets are chosen for the
quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest

from dyvte.engine.events import Engine
from dyvte.params import FinishReason
from server.engine_metrics import EngineMetrics, add_build_info, add_state
from server.images import ImageFault
from server.metric_families import Children, Families
from server.metrics_compat import ALIASES, aliases
from server.request_metrics import RequestMetrics
from server.shadow_metrics import Promise, ShadowMetrics

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/{id}",
    "/tokenize",
    "/detokenize",
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
REFUSALS = ("queue_full", "not_ready", "draining", "body_too_large", "invalid_prompt", "key_limit")
STAGES = ("fetch", "decode", "preprocess")

MEDIA_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TTFT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATION_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


def endpoint_of(path: str) -> str:
    """The closed label of a path."""
    if path in ENDPOINTS:
        return path
    kind = next((kind for kind in ("/v1/models/", "/v1/responses/") if path.startswith(kind)), None)
    return f"{kind}{{id}}" if kind else "other"


class ServerMetrics:
    """What the server counts itself; ``bind`` adds what a loaded engine reports.

    ``compat`` names another server (a key of ``ALIASES``) whose names are on the page as well.
    """

    def __init__(self, model_name: str, compat: str | None = None) -> None:
        self.registry = CollectorRegistry()
        self._aliases = ALIASES[compat] if compat else {}
        self._families = families = Families(self.registry, model_name)
        self._ready = families.gauge(
            "dyvte_ready", "1 while the server takes requests: model loaded, not draining."
        )()
        self._make_requests(families)
        self._make_media(families)
        self._ttft: Children[Histogram] | None = None
        self._duration: Children[Histogram] | None = None

    def _make_requests(self, families: Families) -> None:
        self._requests = families.counter(
            "dyvte_requests",
            "HTTP requests that ended; 499: the client left first.",
            endpoint=ENDPOINTS,
            status_code=STATUSES,
        )
        self._success = families.counter(
            "dyvte_request_success",
            "Requests that got their whole answer.",
            finish_reason=(FinishReason.STOP.value, FinishReason.LENGTH.value),
        )
        self._refusals = families.counter(
            "dyvte_admission_rejections", "Requests that were not admitted.", reason=REFUSALS
        )

    def _make_media(self, families: Families) -> None:
        self._media = families.histogram(
            "dyvte_media_seconds",
            "Seconds to fetch or decode an image, or to preprocess a request's images.",
            MEDIA_SECONDS,
            stage=STAGES,
        )
        self._media_errors = families.counter(
            "dyvte_media_errors",
            "Images that were refused.",
            reason=[fault.value for fault in ImageFault],
        )

    def watch(self, ready: Callable[[], bool]) -> None:
        """Ask ``ready`` whenever a page is written."""
        self._ready.set_function(lambda: float(ready()))

    def bind(
        self,
        engine: Engine,
        version: str,
        shadow_share: float = 0.0,
        promise: Promise | None = None,
    ) -> None:
        """Add the engine's families and listen to it. Without ``promise`` nothing is promised."""
        families, info = self._families, engine.info
        policies = policies_of(engine)
        promise = promise or Promise(info.default_exits.policy)
        self._ttft = families.histogram(
            "dyvte_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token.",
            TTFT_SECONDS,
            policy=policies,
        )
        self._duration = families.histogram(
            "dyvte_request_duration_seconds",
            "Seconds from a request's arrival to its last token.",
            DURATION_SECONDS,
            policy=policies,
        )
        add_state(families, engine.snapshot)
        add_build_info(families, info, version)
        requests = RequestMetrics(families, policies, info.num_layers)
        shadows = ShadowMetrics(families, policies, shadow_share, promise)
        engine.observe(EngineMetrics(families, requests, shadows))

    def page(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The families without the series that tell when each counter was made; then aliases."""
        families = list(self.registry.collect())
        for family in families:
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
        yield from families
        yield from aliases(families, self._aliases)

    def request(self, path: str, status: int) -> None:
        """An HTTP request ended."""
        label = str(status) if str(status) in STATUSES else "other"
        self._requests(endpoint_of(path), label).inc()

    def malformed(self) -> None:
        """What came was no HTTP: it has no path."""
        self.request("", 400)

    def refusal(self, reason: str) -> None:
        """A request was not admitted."""
        self._refusals(reason).inc()

    def answered(self, finish_reason: FinishReason, policy: str, ttft: float, total: float) -> None:
        """A request got its answer; seconds count from its arrival."""
        self._success(finish_reason.value).inc()
        if self._ttft is not None and self._duration is not None:
            self._ttft(policy).observe(ttft)
            self._duration(policy).observe(total)

    def media_seconds(self, stage: str, seconds: float) -> None:
        """One image passed a stage."""
        self._media(stage).observe(seconds)

    def media_error(self, reason: str) -> None:
        """One image was refused."""
        self._media_errors(reason).inc()


def policies_of(engine: Engine) -> tuple[str, ...]:
    """The closed set of policy labels: what requests may name, and "off"."""
    return tuple(dict.fromkeys((*engine.info.policies, "off")))
