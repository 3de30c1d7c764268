"""A decoder layer of ``transformers`` as a few calls of our CPU kernels, over its own weights.

Queries, keys and values come from one product, and so do gate and up; norms, rotary embeddings and
gated units are single passes, and what is added to a row is added where the product ends. The layer
itself stays in the model and is the oracle in the tests.

Shapes: T rows, d hidden size, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Joined:
    """Linear layers of the same rows, as one product where their panels can lie side by side."""

    parts: tuple[tuple[Panels, Tensor | None], ...]

    @classmethod
    def of(cls, *linears: Any) -> Joined:
        """Lays the weights side by side and lets the layers look into them. Mutates the layers."""
        panels = [each.panels for each in linears]
        alike = len({(each.dtype, each.inputs) for each in panels}) == 1
        if not alike or any(each.outputs % ops.panel() for each in panels):
            return cls(tuple((each.panels, each.bias) for each in linears))
        outputs = [each.outputs for each in panels]
        data = torch.cat([each.data for each in panels])
        views = data.split([count // ops.panel() for count in outputs])
        for linear, view in zip(linears, views, strict=True):
            linear.hold(Panels(view, panels[0].dtype, panels[0].inputs, linear.out_features))
        whole = Panels(data, panels[0].dtype, panels[0].inputs, sum(outputs))
        return cls(((whole, _biases(linears)),))

    def __call__(self, x_Td: Tensor) -> Tensor:
        """The layers' results side by side."""
        outs = [ops.linear(x_Td, panels, bias) for panels, bias in self.parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)


def _biases(linears: tuple[Any, ...]) -> Tensor | None:
    if all(each.bias is None for each in linears):
        return None
    given = [torch.zeros(each.out_features) if each.bias is None else each.bias for each in linears]
    return torch.cat(given)


class FusedLayer:
    """``(hidden [T, d], rotary, context) -> [T, d]``: see the module."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention = Norm.of(layer.input_layernorm)
        self.before_mlp = Norm.of(layer.post_attention_layernorm)
        self.query_key_value = Joined.of(attention.q_proj, attention.k_proj, attention.v_proj)
        self.gate_up = Joined.of(mlp.gate_proj, mlp.up_proj)
        self.attended, self.down = attention.o_proj, mlp.down_proj
        self.scale, self.head_dim = float(attention.scaling), int(attention.head_dim)
        self.heads = attention.q_proj.out_features // self.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        self.of_queries, self.of_keys = (Norm.of(each) if each else None for each in norms)

    def __call__(
        self, hidden_Td: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """Attention, then the gated MLP; each adds to the rows. Neither argument changes."""
        out = self._attend(hidden_Td, rotary, context)
        units = ops.silu_mul(self.gate_up(self.before_mlp(out)))
        return ops.linear(units, self.down.panels, self.down.bias, out)

    def _attend(
        self, hidden_Td: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        rows = len(hidden_Td)
        joined = self.query_key_value(self.before_attention(hidden_Td))
        heads = joined.view(rows, -1, self.head_dim)
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        cos, sin = (each[0].contiguous() for each in rotary)
        for rows_THD, norm in ((query, self.of_queries), (key, self.of_keys)):
            if norm is None:
                ops.turn_heads(rows_THD, cos, sin)
            else:
                ops.turn_heads(rows_THD, cos, sin, norm.weight, norm.eps)
        attended = context.attend(query, key, value, self.scale).reshape(rows, -1)
        return ops.linear(attended, self.attended.panels, self.attended.bias, hidden_Td)


def layer(module: Any) -> FusedLayer | None:
    """What is fused of a decoder layer; None: not known, or not all of it lies in panels.

    Weights that a library has rounded stay in its own modules.
    """
    unit = type(module.mlp.act_fn).__name__
    if type(module).__name__ not in KNOWN or unit not in ("SiLU", "SiLUActivation"):
        return None
    linears = [each for each in module.modules() if hasattr(each, "in_features")]
    if not all(hasattr(each, "panels") for each in linears):
        return None
    return FusedLayer(module)
