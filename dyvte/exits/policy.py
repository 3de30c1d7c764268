"""Exit policies: frozen, stateless rules that say after which layer a sequence's image leaves.

A policy names what it wants to read (nothing, the layer's gate, or numbers that it measures
itself on a ``LayerView``) and the layers where it may fire; ``dyvte.forward`` takes the reading,
one device→host read for all sequences of a layer, and asks. Source of the gate rule: arXiv
2411.19628, with the threshold log((1 − a)/a) in place of 0, so that aggressiveness 0.5 is the
paper's argmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from dyvte.exits.prune.rule import PruneRule
from dyvte.exits.view import LayerView


class Reads(Enum):
    """What a policy wants to see before it decides."""

    NOTHING = "nothing"
    GATE = "gate"  # the layer's gate: a GateReading
    VIEW = "view"  # what its own ``measure`` makes of a LayerView: a tuple of floats


@dataclass(frozen=True, slots=True)
class GateReading:
    """What one gate said about one sequence, in float32."""

    keep: float
    exit: float

    @property
    def is_nan(self) -> bool:
        """True if either logit is NaN: the visual tokens stay, and it is counted."""
        return math.isnan(self.keep) or math.isnan(self.exit)


Reading = GateReading | tuple[float, ...] | None
"""What ``decide`` is given, as ``reads`` asked."""


@runtime_checkable
class ExitPolicy(Protocol):
    """One sequence's rule. ``name`` is what a request calls it."""

    name: ClassVar[str]
    reads: ClassVar[Reads]

    def may_fire(self, layer: int) -> bool:
        """True if this layer is worth asking: a layer that is not asked costs nothing."""
        ...

    def decide(self, layer: int, reading: Reading) -> bool:
        """True if the visual tokens leave after ``layer``."""
        ...


@runtime_checkable
class MeasuringPolicy(ExitPolicy, Protocol):
    """A policy with ``reads = Reads.VIEW``."""

    def measure(self, layer: int, view: LayerView) -> Tensor:
        """``[F]`` float32 on the view's device: the floats that ``decide`` will get."""
        ...


@dataclass(frozen=True, slots=True)
class Off:
    """Never exits."""

    name: ClassVar[str] = "off"
    reads: ClassVar[Reads] = Reads.NOTHING

    def may_fire(self, layer: int) -> bool:
        """No layer."""
        return False

    def decide(self, layer: int, reading: Reading) -> bool:
        """Keep."""
        return False


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exits after ``exit_layer`` (VTW's rule with k = exit_layer + 1)."""

    exit_layer: int
    name: ClassVar[str] = "fixed"
    reads: ClassVar[Reads] = Reads.NOTHING

    def may_fire(self, layer: int) -> bool:
        """That layer only."""
        return layer == self.exit_layer

    def decide(self, layer: int, reading: Reading) -> bool:
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
    reads: ClassVar[Reads] = Reads.GATE

    def may_fire(self, layer: int) -> bool:
        """Layers that have a gate and lie in the allowed range (none at aggressiveness 0)."""
        below = self.max_layer is None or layer <= self.max_layer
        return (
            self.aggressiveness != 0.0
            and layer in self.layers
            and self.min_layer <= layer
            and below
        )

    def decide(self, layer: int, reading: Reading) -> bool:
        """Compare the margin of the logits with the threshold."""
        if not isinstance(reading, GateReading):
            return False
        with np.errstate(invalid="ignore", over="ignore"):
            margin = np.float32(reading.exit) - np.float32(reading.keep)
        return bool(margin > threshold(self.aggressiveness))


@dataclass(frozen=True, slots=True)
class Chain:
    """Prunes first, exits later. Everything but ``prune`` is the exit's."""

    prune: PruneRule
    exit: ExitPolicy


Policy = ExitPolicy | Chain
"""What one sequence follows."""


def exit_of(policy: Policy) -> ExitPolicy:
    """The exit of a policy, chained or not."""
    return policy.exit if isinstance(policy, Chain) else policy


def prune_of(policy: Policy) -> PruneRule | None:
    """The pruning that is chained before the exit, if any."""
    return policy.prune if isinstance(policy, Chain) else None


def threshold(aggressiveness: float) -> np.float32:
    """log((1 − a)/a) in float32: +inf at 0, 0 at 0.5, −inf at 1, NaN for NaN."""
    a = aggressiveness
    if a <= 0.0:
        return np.float32(np.inf)
    if a >= 1.0:
        return np.float32(-np.inf)
    return np.float32(math.log((1.0 - a) / a))
