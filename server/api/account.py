"""The ``dyvte`` object of a reply: what the visual tokens did and did not cost.

Times are milliseconds here and seconds everywhere else. ``ttft_ms`` and ``total_ms`` count from
the request's arrival, so that they contain the preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired

from typing_extensions import TypedDict

from dyvte.engine.stats import RequestStats
from dyvte.flops import FlopsReport


class FlopsAccount(TypedDict):
    """FLOPs of one request; ``saved`` may be negative."""

    total: int
    baseline: int
    saved: int
    saved_ratio: float
    vision: int
    prefill: int
    decode: int
    gates: int
    head: int
    executed: int
    avoided_by_cache: int


class TimingsAccount(TypedDict):
    """Milliseconds of one request."""

    queue_ms: float
    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float
    total_ms: float


class DyvteAccount(TypedDict):
    """The values in force and what came of them; the lists with ``report: "full"`` only."""

    policy: str
    aggressiveness: float | None
    min_layer: NotRequired[int]
    max_layer: NotRequired[int]
    prune: NotRequired[str]
    exit_layer: int | None
    num_layers: int
    visual_tokens: int
    flops: FlopsAccount
    kv_bytes: int
    kv_bytes_saved: int
    timings: TimingsAccount
    visual_tokens_kept: NotRequired[list[list[int]]]
    tokens_per_layer: NotRequired[list[int]]
    kv_tokens_per_layer: NotRequired[list[int]]
    gate_logits: NotRequired[list[list[float]]]


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds that a request spent before it reached the engine."""

    preprocess: float
    before_submit: float

    def ttft(self, stats: RequestStats) -> float:
        """Arrival → first token, seconds."""
        return self.before_submit + stats.timings.ttft

    def total(self, stats: RequestStats) -> float:
        """Arrival → last token, seconds."""
        return self.before_submit + stats.timings.total


def account_of(stats: RequestStats, clock: Clock, report: str) -> DyvteAccount:
    """The account of a finished request."""
    account: DyvteAccount = {
        "policy": stats.policy,
        "aggressiveness": stats.aggressiveness,
        "exit_layer": stats.exit_layer,
        "num_layers": stats.num_layers,
        "visual_tokens": stats.visual_tokens,
        "flops": _flops(stats.flops),
        "kv_bytes": stats.kv_bytes,
        "kv_bytes_saved": stats.kv_bytes_saved,
        "timings": _timings(stats, clock),
    }
    if stats.min_layer is not None:
        account["min_layer"] = stats.min_layer
    if stats.max_layer is not None:
        account["max_layer"] = stats.max_layer
    if stats.prune is not None:
        account["prune"] = stats.prune
    if report == "full":
        if stats.prune is not None:
            account["visual_tokens_kept"] = [[at, len(rows)] for at, rows in stats.kept_visual]
        account["tokens_per_layer"] = list(stats.tokens_per_layer)
        account["kv_tokens_per_layer"] = list(stats.kv_tokens_per_layer)
        account["gate_logits"] = [list(pair) for pair in stats.gate_logits]
    return account


def _flops(flops: FlopsReport) -> FlopsAccount:
    return {
        "total": flops.total,
        "baseline": flops.baseline,
        "saved": flops.saved,
        "saved_ratio": flops.saved_ratio,
        "vision": flops.vision,
        "prefill": flops.prefill,
        "decode": flops.decode,
        "gates": flops.gates,
        "head": flops.head,
        "executed": flops.executed,
        "avoided_by_cache": flops.avoided_by_cache,
    }


def _timings(stats: RequestStats, clock: Clock) -> TimingsAccount:
    timings = stats.timings
    return {
        "queue_ms": _ms(timings.queue),
        "preprocess_ms": _ms(clock.preprocess),
        "vision_ms": _ms(timings.vision),
        "prefill_ms": _ms(timings.prefill),
        "ttft_ms": _ms(clock.ttft(stats)),
        "decode_ms": _ms(timings.decode),
        "total_ms": _ms(clock.total(stats)),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
