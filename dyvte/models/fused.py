"""A decoder layer of ``transformers`` as a few calls of our CPU kernels, over its own weights.

Norms, rotary embeddings and gated units are single passes. Where weights lie in panels, queries,
keys and values come from one product, and so do gate and up, and what is added to a row is added
where the product ends; other forms multiply as they do. The layer itself stays in the model and is
the oracle in the tests.

Shapes: T rows, d hidden size, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dyvte.attention import LayerContext
from dyvte.kernels import ops
from dyvte.kernels.ops import Panels

KNOWN = frozenset(
    "LlamaDecoderLayer MistralDecoderLayer Qwen2DecoderLayer Qwen3DecoderLayer "
    "Qwen2VLDecoderLayer Qwen2_5_VLDecoderLayer Qwen3VLTextDecoderLayer".split()
)
"""Layers that compute what is computed here."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Root-mean-square norm."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        """Over the module's weights."""
        return cls(module.weight.detach().contiguous(), float(module.variance_epsilon))

    def __call__(self, x_Td: Tensor) -> Tensor:
        return ops.rms_norm(x_Td, self.weight, self.eps)


class Joined:
    """Linear layers of the same rows, as one product where their panels can lie side by side.

    That lays the weights side by side and lets the layers look into them: mutates the layers.
    """

    def __init__(self, *linears: Any) -> None:
        self.linears = linears
        self.panels: Panels | None = None
        held = [each.panels for each in linears if hasattr(each, "panels")]
        if len(held) < len(linears) or not _fit(held):
            return
        self.sizes, self.bias = [each.outputs for each in held], _biases(linears)
        data = torch.cat([each.data for each in held])
        views = data.split([len(each.data) for each in held])
        for linear, own, view in zip(linears, held, views, strict=True):
            linear.hold(replace(own, data=view))
        self.panels = replace(held[0], data=data, outputs=sum(self.sizes))

    def __call__(self, x_Td: Tensor) -> tuple[Tensor, ...]:
        """Each layer's result, ``[T, its outputs]``, its rows maybe apart."""
        if self.panels is None:
            return tuple(linear(x_Td) for linear in self.linears)
        out: tuple[Tensor, ...] = ops.linear(x_Td, self.panels, self.bias).split(self.sizes, dim=1)
        return out


def _fit(panels: Sequence[Panels]) -> bool:
    """True if they can lie side by side: of one kind, and none half empty."""
    alike = len({(each.dtype, each.inputs) for each in panels}) == 1
    return alike and not any(each.outputs % ops.panel() for each in panels)


def _biases(linears: tuple[Any, ...]) -> Tensor | None:
    if all(each.bias is None for each in linears):
        return None
    given = [torch.zeros(each.out_features) if each.bias is None else each.bias for each in linears]
    return torch.cat(given)


def _added(linear: Any, x_Td: Tensor, residual: Tensor) -> Tensor:
    """``residual + linear(x)``."""
    if hasattr(linear, "panels"):
        return ops.linear(x_Td, linear.panels, linear.bias, residual)
    out: Tensor = residual + linear(x_Td)
    return out


class FusedLayer:
    """``(hidden [T, d], rotary, context) -> [T, d]``: see the module."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention = Norm.of(layer.input_layernorm)
        self.before_mlp = Norm.of(layer.post_attention_layernorm)
        self.query_key_value = Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.gate_up = Joined(mlp.gate_proj, mlp.up_proj)
        self.attended, self.down = attention.o_proj, mlp.down_proj
        self.scale, self.head_dim = float(attention.scaling), int(attention.head_dim)
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        self.of_queries, self.of_keys = (Norm.of(each) if each else None for each in norms)

    def __call__(
        self, hidden_Td: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """Attention, then the gated MLP; each adds to the rows. Neither argument changes."""
        out = self._attend(hidden_Td, rotary, context)
        gate, up = self.gate_up(self.before_mlp(out))
        return _added(self.down, ops.silu_mul(gate, up), out)

    def _attend(
        self, hidden_Td: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        rows = len(hidden_Td)
        normed = self.before_attention(hidden_Td)
        query, key, value = (
            each.unflatten(1, (-1, self.head_dim)) for each in self.query_key_value(normed)
        )
        cos, sin = (each[0].contiguous() for each in rotary)
        for rows_THD, norm in ((query, self.of_queries), (key, self.of_keys)):
            if norm is None:
                ops.turn_heads(rows_THD, cos, sin)
            else:
                ops.turn_heads(rows_THD, cos, sin, norm.weight, norm.eps)
        attended = context.attend(query, key, value, self.scale).reshape(rows, -1)
        return _added(self.attended, attended, hidden_Td)


def layer(module: Any, dtype: torch.dtype) -> FusedLayer | None:
    """What is fused of a decoder layer for rows of a type, whatever form its linear layers have.

    None: a layer that is not known, or norms of another type.
    """
    unit = type(module.mlp.act_fn).__name__
    if type(module).__name__ not in KNOWN or unit not in ("SiLU", "SiLUActivation"):
        return None
    norms = (each for name, each in module.named_parameters() if "norm" in name)
    return FusedLayer(module) if all(each.dtype == dtype for each in norms) else None
