"""The policy ``state``: exits by what the model itself shows. No gates, no training.

One signal of ``dyvte.exits.signals`` per layer (how much the question's rows still look at the
image, or are still moved by it) on a logistic scale with two numbers a layer, which ``dyvte
calibrate`` fits on a few hundred unlabelled samples of the user's own:
``P(unchanged) = σ(weight · log(signal) + bias)``. It fires as a gate does, iff
``P > 1 - aggressiveness``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dyvte.errors import ModelError
from dyvte.exits.policy import Reading, Reads, threshold
from dyvte.exits.signals import SIGNALS, read_signals
from dyvte.exits.view import LayerView

FLOOR = 1e-6  # below this a signal is silence; keeps the logarithm finite


@dataclass(frozen=True, slots=True)
class StateScale:
    """The fitted scale: ``weight`` and ``bias`` of each of ``layers``. Raises ModelError."""

    signal: str
    layers: tuple[int, ...]
    weight: tuple[float, ...]
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise ModelError(f"state: {self.signal!r} is no signal; known are {', '.join(SIGNALS)}")
        if not len(self.layers) == len(self.weight) == len(self.bias) > 0:
            raise ModelError("state: layers, weight and bias must be lists of one length")

    def margin(self, layer: int, log_signal: float) -> float:
        """Log odds that the answer needs the image no more after ``layer``."""
        at = self.layers.index(layer)
        return self.weight[at] * log_signal + self.bias[at]


@dataclass(frozen=True, slots=True)
class State:
    """Exits at the first layer of the scale, within the range, whose odds pass the threshold."""

    aggressiveness: float
    scale: StateScale
    min_layer: int = 0
    max_layer: int | None = None
    name: ClassVar[str] = "state"
    reads: ClassVar[Reads] = Reads.VIEW

    def may_fire(self, layer: int) -> bool:
        """Layers of the scale in the allowed range (none at aggressiveness 0)."""
        below = self.max_layer is None or layer <= self.max_layer
        in_range = self.min_layer <= layer and below
        return self.aggressiveness != 0.0 and layer in self.scale.layers and in_range

    def measure(self, layer: int, view: LayerView) -> Tensor:
        """``[1]``: the logarithm of the one signal that the scale is about."""
        return log_signal(read_signals(view, (self.scale.signal,)))

    def decide(self, layer: int, reading: Reading) -> bool:
        """Compare the log odds with the threshold; NaN keeps."""
        if not isinstance(reading, tuple) or math.isnan(reading[0]):
            return False
        margin = np.float32(self.scale.margin(layer, reading[0]))
        return bool(margin > threshold(self.aggressiveness))


def log_signal(signal: Tensor) -> Tensor:
    """Natural logarithm, floored at ``FLOOR``; the same in fitting and in deciding."""
    return torch.log(signal.float().clamp(min=FLOOR))
