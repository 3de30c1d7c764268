"""The gate networks of a model: one small hyper-network per gated layer.

Gate l: Linear(2d → inner, no bias) → exact (erf) GELU → Linear(inner → 2, no bias); output 0 is
keep, 1 is exit (arXiv 2411.19628; inner = 2048 there). Computed in float32 whatever the model's
type: a 16-bit logit would move the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.errors import ModelError

INNER = 2048


@dataclass(frozen=True, slots=True)
class GateBank:
    """Gates by layer: ``w1[l] [inner, 2d]`` and ``w2[l] [2, inner]``."""

    w1: Mapping[int, Tensor]
    w2: Mapping[int, Tensor]

    def __post_init__(self) -> None:
        if set(self.w1) != set(self.w2) or not self.w1:
            raise ModelError("gates: every gated layer needs both w1 and w2")
        for layer, w1 in self.w1.items():
            w2 = self.w2[layer]
            width = 2 * self.hidden_size
            if w1.ndim != 2 or w2.shape != (2, w1.shape[0]) or w1.shape[1] != width:
                raise ModelError(
                    f"gates: layer {layer} has shapes {tuple(w1.shape)} and {tuple(w2.shape)}, "
                    "expected [inner, 2d] and [2, inner] with one d for all"
                )

    @property
    def layers(self) -> frozenset[int]:
        """Layers that have a gate."""
        return frozenset(self.w1)

    @property
    def hidden_size(self) -> int:
        """d: half the width of a status."""
        return next(iter(self.w1.values())).shape[-1] // 2

    def inner(self, layer: int) -> int:
        """Width of the hidden layer of one gate."""
        return self.w1[layer].shape[0]

    def logits(self, layer: int, status_S2d: Tensor) -> Tensor:
        """``[S, 2]`` float32 (keep, exit) of one layer's gate."""
        status = status_S2d.float()
        inner = F.gelu(F.linear(status, self.w1[layer].float()))
        return F.linear(inner, self.w2[layer].float())

    def to(self, device: torch.device) -> GateBank:
        """The same gates on another device."""
        return GateBank(
            {layer: w.to(device) for layer, w in self.w1.items()},
            {layer: w.to(device) for layer, w in self.w2.items()},
        )

    def check(self, hidden_size: int, num_layers: int) -> None:
        """Raise ModelError if these gates do not belong to such a model."""
        if self.hidden_size != hidden_size:
            raise ModelError(
                f"gates: made for hidden size {self.hidden_size}, the model has {hidden_size}"
            )
        if max(self.layers) >= num_layers:
            raise ModelError(
                f"gates: layer {max(self.layers)} has a gate, the model has layers "
                f"0..{num_layers - 1}"
            )
