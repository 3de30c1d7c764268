"""What the engine reports: about one request when it ends, about itself at any moment.

Plain numbers in base units (seconds, bytes, FLOPs). Knows no Prometheus and no HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dyvte.flops import FlopsReport


class ExitOutcome(StrEnum):
    """What became of a request's visual tokens."""

    EXITED = "exited"  # they left after ``exit_layer``
    NO_EXIT = "no_exit"  # a policy was asked and kept them
    OFF = "off"  # the policy was "off"
    NO_IMAGE = "no_image"  # there were none


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one request inside the engine; ``ttft`` and ``total`` count from submission."""

    queue: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestStats:
    """The account of one finished request (all n choices together; the prefill counts once).

    ``policy`` … ``max_layer`` are the values in force after defaults and the operator's caps.
    ``kv_bytes`` is what the sequences held at their end, ``kv_bytes_saved`` what the rows that
    left would have taken on top. ``kept_visual`` has one ``(layer, rows)`` per pruning: which of
    the prompt's visual rows (counted from 0) went on into ``layer``. ``gate_logits`` has one
    (keep, exit) pair per gate asked; ``gates_read`` also counts what the policy ``state`` measured
    in place of one, and ``gates_nan`` those of both that were NaN. ``image_hit`` tells whether a
    cache held its images' rows (None: it was not asked), ``prefix_hit`` the same of the rows up to
    the last image, and ``cached_tokens`` how many of them some layer did not compute. ``itl`` are
    the gaps between successive tokens of each choice, in seconds.
    """

    policy: str
    outcome: ExitOutcome
    num_layers: int
    prompt_tokens: int
    completion_tokens: int
    visual_tokens: int
    flops: FlopsReport
    timings: Timings
    aggressiveness: float | None = None
    min_layer: int | None = None
    max_layer: int | None = None
    exit_layer: int | None = None
    prune: str | None = None
    kept_visual: tuple[tuple[int, tuple[int, ...]], ...] = ()
    cached_tokens: int = 0
    kv_bytes: int = 0
    kv_bytes_saved: int = 0
    tokens_per_layer: tuple[int, ...] = ()
    kv_tokens_per_layer: tuple[int, ...] = ()
    gate_logits: tuple[tuple[float, float], ...] = ()
    gates_read: int = 0
    gates_nan: int = 0
    image_hit: bool | None = None
    prefix_hit: bool | None = None
    itl: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class StepStats:
    """One engine step: rows of the packed batch, and where its seconds went."""

    prefill_rows: int = 0
    decode_rows: int = 0
    seconds: float = 0.0
    gate_seconds: float = 0.0
    vision_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine now. ``kv_usage`` is a ratio 0..1; ``kv_bytes_saved`` is resident now."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_bytes_saved: int = 0


class ShadowOutcome(StrEnum):
    """How a shadow run compares with the answer that a user got."""

    AGREED = "agreed"  # the same tokens
    CHANGED = "changed"  # the exit or pruning changed the answer
    SKIPPED = "skipped"  # the answer was sampled at a temperature: nothing to compare
    DROPPED = "dropped"  # no quiet moment in time, the end of the server, or a run that failed


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """One drawn answer: the policy that shaped it, and what all attempts to check it cost."""

    policy: str
    outcome: ShadowOutcome
    flops: int = 0


class Ending(StrEnum):
    """Why a request got no whole answer."""

    ABORTED = "aborted"  # its client left, its time was up, or the server ended
    FAILED = "failed"  # its own step raised, or the engine died


@dataclass(frozen=True, slots=True)
class UnfinishedStats:
    """A request without a whole answer, and what its finished steps cost.

    ``flops.baseline`` is what the same steps had cost without exit and pruning.
    """

    policy: str
    ending: Ending
    flops: FlopsReport


class Observer(Protocol):
    """Told by the engine thread; must be quick and must not raise."""

    def on_step(self, step: StepStats) -> None:
        """After each step."""

    def on_finish(self, stats: RequestStats) -> None:
        """After each request that ended with stop or length."""

    def on_unfinished(self, stats: UnfinishedStats) -> None:
        """After each request that the engine had begun with and that ended in any other way."""

    def on_shadow(self, shadow: ShadowStats) -> None:
        """After each answer that was drawn for a shadow run."""
