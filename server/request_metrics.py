"""The account of each finished request, as Prometheus families: tokens, FLOPs, exits, latencies.

What a reply's ``dyvte`` object says about one request is summed here over all: the counters of
FLOPs grow by exactly what replies report (integers stay exact in floats up to 2**53). Times are
seconds inside the engine; those that count from a request's arrival belong to ``server.metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyvte.engine.stats import Ending, ExitOutcome, RequestStats, UnfinishedStats
from dyvte.flops import FlopsReport
from server.metric_families import Families

PHASES = ("vision", "prefill", "decode", "head", "gates")
CACHES = ("image", "prefix")

QUEUE_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREFILL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
DECODE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
ITL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
# From a model of a few million parameters to many images before one of a hundred billion.
FLOPS = tuple(digit * 10.0**power for power in range(7, 16) for digit in (1, 2, 5))
SAVED_RATIO = (-0.1, *(step / 20 for step in range(21)))
# Calibrated settings lie near 0: "at most 1 % changed answers" may be an aggressiveness of 0.01.
AGGRESSIVENESS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(step / 10 for step in range(1, 11)))


class RequestMetrics:
    """Families that exist once a model is loaded; ``policies`` is the closed set of that label."""

    def __init__(self, families: Families, policies: Sequence[str], num_layers: int) -> None:
        self._make_tokens(families)
        self._make_flops(families, policies)
        self._make_unfinished(families, policies)
        self._make_exits(families, policies, num_layers)
        self._make_times(families, policies)
        self._queries = families.counter(
            "dyvte_cache_queries", "Look-ups in a cache by finished requests.", cache=CACHES
        )
        self._hits = families.counter(
            "dyvte_cache_hits", "Look-ups that found something.", cache=CACHES
        )

    def count(self, stats: RequestStats) -> None:
        """One request has ended with an answer."""
        self._count_tokens(stats)
        self._count_flops(stats.flops, stats.policy)
        self._count_exit(stats)
        self._observe_times(stats)
        for cache, hit in (("image", stats.image_hit), ("prefix", stats.prefix_hit)):
            if hit is not None:
                self._queries(cache).inc()
                self._hits(cache).inc(hit)

    def count_unfinished(self, stats: UnfinishedStats) -> None:
        """One request has ended without an answer."""
        self._unfinished(stats.ending.value).inc()
        self._unfinished_flops(stats.ending.value, stats.policy).inc(stats.flops.executed)
        saved = max(0, stats.flops.saved)
        self._unfinished_saved(stats.ending.value, stats.policy).inc(saved)

    def _count_tokens(self, stats: RequestStats) -> None:
        self._prompt_tokens.inc(stats.prompt_tokens)
        self._generation_tokens.inc(stats.completion_tokens)
        self._visual_tokens.inc(stats.visual_tokens)
        text = stats.prompt_tokens - stats.visual_tokens
        executed = sum(max(0, rows - text) for rows in stats.tokens_per_layer)
        skipped = stats.visual_tokens * len(stats.tokens_per_layer) - executed
        self._token_layers("executed").inc(executed)
        self._token_layers("skipped").inc(max(0, skipped))

    def _count_flops(self, flops: FlopsReport, policy: str) -> None:
        # A report does not say which cache spared its FLOPs. A spared vision tower counts as the
        # image cache's, also where the prefix's made it needless; rows of the prefill do not.
        images = min(flops.vision, flops.avoided_by_cache)
        prefixes = flops.avoided_by_cache - images
        self._flops("vision", policy).inc(flops.vision - images)
        self._flops("prefill", policy).inc(flops.prefill - prefixes)
        self._flops("decode", policy).inc(flops.decode)
        self._flops("head", policy).inc(flops.head)
        self._flops("gates", policy).inc(flops.gates)
        self._avoided("image").inc(images)
        self._avoided("prefix").inc(prefixes)
        self._baseline(policy).inc(flops.baseline)
        self._saved(policy).inc(max(0, flops.saved))
        self._overspent(policy).inc(max(0, -flops.saved))
        self._request_flops(policy).observe(flops.total)
        self._saved_ratio(policy).observe(flops.saved_ratio)

    def _count_exit(self, stats: RequestStats) -> None:
        self._outcomes(stats.outcome.value).inc()
        if stats.exit_layer is not None:
            self._exit_layer(stats.policy).observe(stats.exit_layer)
        if stats.aggressiveness is not None:
            self._aggressiveness.observe(stats.aggressiveness)
        self._gate_readings.inc(stats.gates_read)
        self._gate_nan.inc(stats.gates_nan)

    def _observe_times(self, stats: RequestStats) -> None:
        timings = stats.timings
        self._queue.observe(timings.queue)
        self._prefill(stats.policy).observe(timings.prefill)
        self._decode(stats.policy).observe(timings.decode)
        itl = self._itl(stats.policy)
        for gap in stats.itl:
            itl.observe(gap)

    def _make_tokens(self, families: Families) -> None:
        counter = families.counter
        self._prompt_tokens = counter(
            "dyvte_prompt_tokens", "Tokens of prompts, visual tokens included."
        )()
        self._generation_tokens = counter(
            "dyvte_generation_tokens", "Tokens of answers, all choices of a request."
        )()
        self._visual_tokens = counter(
            "dyvte_visual_tokens", "Visual tokens of prompts, however early they left."
        )()
        self._token_layers = counter(
            "dyvte_visual_token_layers",
            "Visual tokens times decoder layers at prefill: run, or spared by exit and pruning.",
            state=("executed", "skipped"),
        )

    def _make_flops(self, families: Families, policies: Sequence[str]) -> None:
        counter, histogram = families.counter, families.histogram
        self._flops = counter(
            "dyvte_flops",
            "FLOPs executed for finished requests.",
            phase=PHASES,
            policy=policies,
        )
        self._baseline = counter(
            "dyvte_flops_baseline",
            "FLOPs that the same requests cost without exit, pruning, gates and caches.",
            policy=policies,
        )
        self._saved = counter(
            "dyvte_flops_saved",
            "FLOPs spared by exit and pruning in requests that cost less than their baseline.",
            policy=policies,
        )
        self._overspent = counter(
            "dyvte_flops_overspent",
            "FLOPs above the baseline in requests whose policy cost more than it spared.",
            policy=policies,
        )
        self._avoided = counter(
            "dyvte_flops_avoided", "FLOPs that a cache spared, exits apart.", cache=CACHES
        )
        self._request_flops = histogram(
            "dyvte_request_flops",
            "FLOPs of a request under its policy, as if no cache existed.",
            FLOPS,
            policy=policies,
        )
        self._saved_ratio = histogram(
            "dyvte_request_flops_saved_ratio",
            "Share of a request's baseline FLOPs that its policy spared; negative: overspent.",
            SAVED_RATIO,
            policy=policies,
        )

    def _make_unfinished(self, families: Families, policies: Sequence[str]) -> None:
        endings = [ending.value for ending in Ending]
        self._unfinished = families.counter(
            "dyvte_unfinished_requests",
            "Requests that the engine had begun with and that got no whole answer.",
            ending=endings,
        )
        self._unfinished_flops = families.counter(
            "dyvte_unfinished_flops",
            "FLOPs executed for them, which no reply tells and dyvte_flops does not contain.",
            ending=endings,
            policy=policies,
        )
        self._unfinished_saved = families.counter(
            "dyvte_unfinished_flops_saved",
            "FLOPs that exit and pruning had spared in them until then.",
            ending=endings,
            policy=policies,
        )

    def _make_exits(self, families: Families, policies: Sequence[str], num_layers: int) -> None:
        counter, histogram = families.counter, families.histogram
        self._outcomes = counter(
            "dyvte_exit_outcomes",
            "Requests by what became of their visual tokens.",
            outcome=[outcome.value for outcome in ExitOutcome],
        )
        self._exit_layer = histogram(
            "dyvte_request_exit_layer",
            "Last decoder layer, from 0, that ran with visual tokens; exited requests only.",
            tuple(float(layer) for layer in range(num_layers)),
            policy=policies,
        )
        self._aggressiveness = histogram(
            "dyvte_request_aggressiveness",
            "Aggressiveness in force, of requests whose policy has one.",
            AGGRESSIVENESS,
        )()
        self._gate_readings = counter(
            "dyvte_gate_readings",
            "Answers of exit gates, or of what `state` measures: one per layer and request asked.",
        )()
        self._gate_nan = counter(
            "dyvte_gate_nan", "Those answers that were NaN; the visual tokens stayed."
        )()

    def _make_times(self, families: Families, policies: Sequence[str]) -> None:
        histogram = families.histogram
        self._queue = histogram(
            "dyvte_request_queue_seconds",
            "Seconds from a request's submission to the start of its prefill.",
            QUEUE_SECONDS,
        )()
        self._prefill = histogram(
            "dyvte_request_prefill_seconds",
            "Seconds of the steps in which a request's prefill ran, batch mates included.",
            PREFILL_SECONDS,
            policy=policies,
        )
        self._decode = histogram(
            "dyvte_request_decode_seconds",
            "Seconds from a request's first token to its last.",
            DECODE_SECONDS,
            policy=policies,
        )
        self._itl = histogram(
            "dyvte_inter_token_latency_seconds",
            "Seconds between successive tokens of one choice.",
            ITL_SECONDS,
            policy=policies,
        )
