"""Exit policies: frozen, stateless rules that say after which layer a sequence's image leaves.

A policy names the signal that it wants to read (or none) and the layers where it may fire;
``dyvte.forward`` takes the reading and asks. Source of the gate rule: arXiv 2411.19628, with the
threshold log((1 − a)/a) in place of 0, so that aggressiveness 0.5 is the paper's argmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class GateReading:
    """What one gate said about one sequence, in float32."""

    keep: float
    exit: float

    @property
    def is_nan(self) -> bool:
        """True if either logit is NaN: the visual tokens stay, and it is counted."""
        return math.isnan(self.keep) or math.isnan(self.exit)


@runtime_checkable
class ExitPolicy(Protocol):
    """One sequence's rule. ``name`` is what a request calls it."""

    name: ClassVar[str]
    reads_gates: ClassVar[bool]

    def may_fire(self, layer: int) -> bool:
        """True if this layer is worth asking: a layer that is not asked costs nothing."""
        ...

    def decide(self, layer: int, reading: GateReading | None) -> bool:
        """True if the visual tokens leave after ``layer``."""
        ...


@dataclass(frozen=True, slots=True)
class Off:
    """Never exits."""

    name: ClassVar[str] = "off"
    reads_gates: ClassVar[bool] = False

    def may_fire(self, layer: int) -> bool:
        """No layer."""
        return False

    def decide(self, layer: int, reading: GateReading | None) -> bool:
        """Keep."""
        return False


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exits after ``exit_layer`` (VTW's rule with k = exit_layer + 1)."""

    exit_layer: int
    name: ClassVar[str] = "fixed"
    reads_gates: ClassVar[bool] = False

    def may_fire(self, layer: int) -> bool:
        """That layer only."""
        return layer == self.exit_layer

    def decide(self, layer: int, reading: GateReading | None) -> bool:
        """Exit at that layer."""
        return layer == self.exit_layer


@dataclass(frozen=True, slots=True)
class Gate:
    """Exits at the first gated layer in ``min_layer..max_layer`` whose gate fires.

    Fires iff ``exit - keep > log((1 - a) / a)``, strictly and in float32: a tie or a NaN keeps,
    0 never fires, 1 fires wherever the logits are finite.
    """

    aggressiveness: float
    layers: frozenset[int]
    min_layer: int = 0
    max_layer: int | None = None
    name: ClassVar[str] = "gate"
    reads_gates: ClassVar[bool] = True

    def may_fire(self, layer: int) -> bool:
        """Layers that have a gate and lie in the allowed range (none at aggressiveness 0)."""
        below = self.max_layer is None or layer <= self.max_layer
        return (
            self.aggressiveness != 0.0
            and layer in self.layers
            and self.min_layer <= layer
            and below
        )

    def decide(self, layer: int, reading: GateReading | None) -> bool:
        """Compare the margin of the logits with the threshold."""
        if reading is None:
            return False
        with np.errstate(invalid="ignore", over="ignore"):
            margin = np.float32(reading.exit) - np.float32(reading.keep)
        return bool(margin > threshold(self.aggressiveness))


def threshold(aggressiveness: float) -> np.float32:
    """log((1 − a)/a) in float32: +inf at 0, 0 at 0.5, −inf at 1, NaN for NaN."""
    a = aggressiveness
    if a <= 0.0:
        return np.float32(np.inf)
    if a >= 1.0:
        return np.float32(-np.inf)
    return np.float32(math.log((1.0 - a) / a))
