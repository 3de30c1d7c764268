"""The account of one answer as a person or a program reads it.

Field names in JSON are those of the server's ``dyvte`` object, so that a script may move from
one to the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dyvte.engine.stats import ExitOutcome, RequestStats

if TYPE_CHECKING:
    from dyvte import Result

PREFIXES = ("", "k", "M", "G", "T", "P")


def as_line(stats: RequestStats, seconds: float) -> str:
    """E.g. ``exit after layer 5 of 16 · 0.21 of 0.44 GFLOPs (saved 52 %) · KV 1.2 MB …``."""
    flops = stats.flops
    parts = [
        _exit(stats),
        f"{si(flops.total)}FLOPs of {si(flops.baseline)}FLOPs (saved {flops.saved_ratio:.0%})",
        f"KV {si(stats.kv_bytes)}B (saved {si(stats.kv_bytes_saved)}B)",
        f"{stats.completion_tokens} tokens in {seconds:.2f} s",
    ]
    return " · ".join(parts)


def as_json(result: Result, model: str, seconds: float) -> dict[str, Any]:
    """The answer, its usage and the ``dyvte`` object."""
    stats = result.stats
    flops = stats.flops
    return {
        "model": model,
        "text": result.text,
        "finish_reason": str(result.finish_reason),
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
        },
        "seconds": seconds,
        "dyvte": {
            "policy": stats.policy,
            "aggressiveness": stats.aggressiveness,
            "exit_layer": stats.exit_layer,
            "num_layers": stats.num_layers,
            "visual_tokens": stats.visual_tokens,
            "flops": {
                name: getattr(flops, name)
                for name in (
                    "total",
                    "baseline",
                    "saved",
                    "saved_ratio",
                    "vision",
                    "prefill",
                    "decode",
                    "gates",
                    "head",
                    "executed",
                    "avoided_by_cache",
                )
            },
            "kv_bytes": stats.kv_bytes,
            "kv_bytes_saved": stats.kv_bytes_saved,
        },
    }


def _exit(stats: RequestStats) -> str:
    if stats.outcome is ExitOutcome.EXITED:
        return f"exit after layer {stats.exit_layer} of {stats.num_layers}"
    return {
        ExitOutcome.NO_EXIT: f"no exit in {stats.num_layers} layers",
        ExitOutcome.OFF: "exit off",
        ExitOutcome.NO_IMAGE: "no image",
    }[stats.outcome]


def si(value: float) -> str:
    """Three digits and a decimal prefix: ``5.30 T``, ``812 k``, ``0 ``."""
    prefixes = iter(PREFIXES)
    prefix = next(prefixes)
    while abs(value) >= 999.5 and prefix != PREFIXES[-1]:
        value /= 1000
        prefix = next(prefixes)
    if not prefix:
        return f"{value:.0f} "
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {prefix}"
