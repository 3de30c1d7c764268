"""The gate networks of a model: one small hyper-network per gated layer.

Gate l: Linear(2d → inner, no bias) → exact (erf) GELU → Linear(inner → 2); output 0 is keep, 1 is
exit (arXiv 2411.19628; inner = 2048 and no bias there). Gates of ours are narrower and may add an
offset to the two logits, which is what makes P(exit) a frequency. Computed in float32 whatever
the model's type: a 16-bit logit would move the decision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.errors import ModelError
from dyvte.flops import gate_flops

INNER = 2048
WIDENED = 256
"""Outputs of a gate in 16 bit whose weights are widened at a time: they stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class GateBank:
    """Gates by layer: ``w1[l] [inner, 2d]``, ``w2[l] [2, inner]``; some have ``bias[l] [2]``."""

    w1: Mapping[int, Tensor]
    w2: Mapping[int, Tensor]
    bias: Mapping[int, Tensor] = field(default_factory=dict)

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
        for layer, bias in self.bias.items():
            if layer not in self.w1 or bias.shape != (2,):
                raise ModelError(
                    f"gates: layer {layer} has a bias of shape {tuple(bias.shape)}, expected [2] "
                    "beside a w1 and a w2"
                )

    @property
    def layers(self) -> frozenset[int]:
        """Layers that have a gate."""
        return frozenset(self.w1)

    @property
    def hidden_size(self) -> int:
        """d: half the width of a status."""
        return next(iter(self.w1.values())).shape[-1] // 2

    @property
    def parameters(self) -> int:
        """Numbers in all gates."""
        return sum(w.numel() for ws in (self.w1, self.w2, self.bias) for w in ws.values())

    def inner(self, layer: int) -> int:
        """Width of the hidden layer of one gate."""
        return self.w1[layer].shape[0]

    def flops(self, layer: int) -> int:
        """What asking one gate once costs."""
        return gate_flops(self.hidden_size, self.inner(layer))

    def logits(self, layer: int, status_S2d: Tensor) -> Tensor:
        """``[S, 2]`` float32 (keep, exit) of one layer's gate."""
        inner = F.gelu(_linear(status_S2d.float(), self.w1[layer]))
        bias = self.bias.get(layer)
        return F.linear(inner, self.w2[layer].float(), None if bias is None else bias.float())

    def only(self, layers: Collection[int]) -> GateBank:
        """The gates of some layers. Raises ModelError if there are none."""
        w1, w2, bias = (
            {layer: w for layer, w in ws.items() if layer in layers}
            for ws in (self.w1, self.w2, self.bias)
        )
        return GateBank(w1, w2, bias)

    def to(self, device: torch.device) -> GateBank:
        """The same gates on another device."""
        w1, w2, bias = (
            {layer: w.to(device) for layer, w in ws.items()} for ws in (self.w1, self.w2, self.bias)
        )
        return GateBank(w1, w2, bias)

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


def _linear(status_S2d: Tensor, w1: Tensor) -> Tensor:
    """In float32, of whatever type the weights are."""
    if w1.dtype == torch.float32 or w1.device.type != "cpu":
        return F.linear(status_S2d, w1.float())
    parts = [F.linear(status_S2d, part.float()) for part in w1.split(WIDENED)]
    return torch.cat(parts, dim=-1)
