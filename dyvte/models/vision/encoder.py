"""An encoder layer of a vision tower as a few calls of our CPU kernels, over its own weights.

What ``dyvte.models.fused`` is for a decoder: norms are one pass, queries, keys and values one
product, the MLP's activation is computed where its product ends, and what is added to a row is
added there too. A row attends to all rows of its own picture. ``transformers``' layer stays in the
model. float32 only.

Shapes: T rows, of pictures one behind the other with as many rows each; d hidden size, H heads, D
head_dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyvte.kernels import ops, vision
from dyvte.models.fused import Joined, Norm
from dyvte.models.workspace import Workspace

BLOCK_ROWS = 924
"""Rows that go from a norm to the end of the MLP at a time, as in a decoder."""
APART = 16
"""Numbers between the rows of queries, keys and values: rows that lie a multiple of 4 KiB apart, as
those of many towers would, share a few sets of the first cache, and attention takes 1.3 times as
long."""


@dataclass(frozen=True, slots=True)
class CentredNorm:
    """Layer norm."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, module: nn.LayerNorm) -> CentredNorm:
        """Over the module's weights."""
        return cls(module.weight.detach(), module.bias.detach(), float(module.eps))

    def __call__(self, x_Td: Tensor, out: Tensor | None = None) -> Tensor:
        return vision.layer_norm(x_Td, self.weight, self.bias, self.eps, out)


def norm_of(module: Any) -> Norm | CentredNorm | None:
    """None of a module that does nothing."""
    if isinstance(module, nn.Identity):
        return None
    return CentredNorm.of(module) if isinstance(module, nn.LayerNorm) else Norm.of(module)


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What the families call differently. ``scales`` of what attention and MLP add to a row."""

    attention: Any
    projection: Any
    norms: tuple[Any, Any]
    mlp: Any
    scales: tuple[Tensor | None, Tensor | None] = (None, None)

    @classmethod
    def of(cls, layer: Any) -> LayerParts:
        """Of a layer of CLIP, SigLIP or InternViT."""
        if hasattr(layer, "self_attn"):
            norms = (layer.layer_norm1, layer.layer_norm2)
            return cls(layer.self_attn, layer.self_attn.out_proj, norms, layer.mlp)
        return cls(
            layer.attention,
            layer.attention.projection_layer,
            (layer.layernorm_before, layer.layernorm_after),
            layer.mlp,
            (layer.lambda_1.detach(), layer.lambda_2.detach()),
        )

    @property
    def linears(self) -> tuple[Any, ...]:
        """All that is multiplied."""
        attention, mlp = self.attention, self.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, self.projection)
        return (*projections, mlp.fc1, mlp.fc2)


class EncoderLayer:
    """``(rows [T, d], images)``: attention, then the MLP, each added to the rows in place.

    Its linear layers lie in panels. What it computes on the way lies in ``space``, which layers
    that run one after the other share.
    """

    def __init__(self, layer: Any, space: Workspace) -> None:
        parts = LayerParts.of(layer)
        attention = parts.attention
        self.before_attention, self.before_mlp = map(norm_of, parts.norms)
        self.query_key_value = Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.of_queries, self.of_keys = (
            norm_of(getattr(attention, name, nn.Identity())) for name in ("q_norm", "k_norm")
        )
        self.attended, self.up, self.down = parts.projection, parts.mlp.fc1, parts.mlp.fc2
        self.attention_scale, self.mlp_scale = parts.scales
        self.scale, self.head_dim = float(attention.scale), int(attention.head_dim)
        self.space = space

    def __call__(self, rows_Td: Tensor, images: int) -> None:
        """See the class; ``rows`` are contiguous."""
        between = self._attend(rows_Td, images)
        for block, out in _blocks(between, rows_Td):
            normed = self._normed(self.before_mlp, block)
            room = self.space.take("units", block, len(block), self.up.out_features)
            units = ops.activated_linear(
                normed, self.up.panels, self.up.bias, self.up.activation, room
            )
            _add(self.down, units, self.mlp_scale, block, out)

    def _attend(self, rows_Td: Tensor, images: int) -> Tensor:
        """The rows between attention and MLP, maybe in ``space``."""
        query, key, value = self._projected(rows_Td)
        if self.of_queries is not None:
            query = self.of_queries(query)
        if self.of_keys is not None:
            key = self.of_keys(key)
        heads = (each.unflatten(1, (-1, self.head_dim)) for each in (query, key, value))
        room = self.space.take("attended", rows_Td, *rows_Td.shape)
        attended = vision.attend_pictures(heads, images, self.scale, room)
        between = self.space.take("between", rows_Td, *rows_Td.shape)
        if between is None:
            between = torch.empty_like(rows_Td)
        _add(self.attended, attended, self.attention_scale, rows_Td, between)
        return between

    def _projected(self, rows_Td: Tensor) -> tuple[Tensor, ...]:
        joined = self.query_key_value
        if joined.panels is None:
            return joined(self._normed(self.before_attention, rows_Td))
        width = joined.panels.outputs
        room = self.space.take("projected", rows_Td, len(rows_Td), width + APART)
        if room is None:
            room = rows_Td.new_empty(len(rows_Td), width + APART)
        out = room[:, :width]
        for block, product in _blocks(rows_Td, out):
            normed = self._normed(self.before_attention, block)
            ops.linear(normed, joined.panels, joined.bias, out=product)
        return joined.split(out)

    def _normed(self, norm: Norm | CentredNorm | None, rows_Td: Tensor) -> Tensor:
        room = self.space.take("normed", rows_Td, *rows_Td.shape)
        return rows_Td if norm is None else norm(rows_Td, room)


def _blocks(rows: Tensor, others: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Both, some rows at a time."""
    if len(rows) <= BLOCK_ROWS:
        return [(rows, others)]
    return zip(rows.split(BLOCK_ROWS), others.split(BLOCK_ROWS), strict=True)


def _add(linear: Any, x: Tensor, scale: Tensor | None, residual: Tensor, out: Tensor) -> None:
    """``residual + scale * linear(x)``, in ``out``."""
    if scale is None:
        ops.linear(x, linear.panels, linear.bias, residual, out)
    else:
        torch.addcmul(residual, scale, ops.linear(x, linear.panels, linear.bias), out=out)
