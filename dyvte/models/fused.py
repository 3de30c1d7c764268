"""A decoder layer of ``transformers`` as a few calls of our CPU kernels, over its own weights.

Norms, rotary embeddings and gated units are single passes. Where weights lie in panels, queries,
keys and values come from one product, gate and up meet where theirs end, what is added to a row is
added there too, and a decode step is a single call; other forms multiply as they do. The layer
itself stays in the model and is the oracle in the tests.

Shapes: T rows, d hidden size, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dyvte.attention import LayerContext
from dyvte.kernels import ops
from dyvte.kernels.layer import DecodeLayer, LayerWeights
from dyvte.kernels.ops import Panels
from dyvte.models.workspace import Workspace

KNOWN = frozenset(
    "LlamaDecoderLayer MistralDecoderLayer Qwen2DecoderLayer Qwen3DecoderLayer "
    "Qwen2VLDecoderLayer Qwen2_5_VLDecoderLayer Qwen3VLTextDecoderLayer".split()
)
"""Layers that compute what is computed here."""
BLOCK_ROWS = 924
"""Rows that go from a norm to the end of the MLP at a time: six of the product's own blocks with
AVX-512, and a multiple of theirs elsewhere. An MLP is up to five times as wide as what it adds."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Root-mean-square norm."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        """Over the module's weights."""
        return cls(module.weight.detach().contiguous(), float(module.variance_epsilon))

    def __call__(self, x_Td: Tensor, out: Tensor | None = None) -> Tensor:
        return ops.rms_norm(x_Td, self.weight, self.eps, out)


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

    def __call__(self, x_Td: Tensor, out: Tensor | None = None) -> tuple[Tensor, ...]:
        """Each layer's result, ``[T, its outputs]``, its rows maybe apart.

        Those of a joined product lie in ``out [T, all outputs]``, where it is given.
        """
        if self.panels is None:
            return tuple(linear(x_Td) for linear in self.linears)
        return self.split(ops.linear(x_Td, self.panels, self.bias, out=out))

    def tail(self) -> Joined:
        """The same without the first layer, over the same memory."""
        rest = copy(self)
        rest.linears = self.linears[1:]
        if self.panels is not None:
            first, (_, *rest.sizes) = len(self.linears[0].panels.data), self.sizes
            rest.panels = replace(
                self.panels, data=self.panels.data[first:], outputs=sum(rest.sizes)
            )
            rest.bias = None if self.bias is None else self.bias[self.sizes[0] :]
        return rest

    def split(self, product: Tensor) -> tuple[Tensor, ...]:
        """What of a joined product is each layer's."""
        each: tuple[Tensor, ...] = product.split(self.sizes, dim=1)
        return each


def _fit(panels: Sequence[Panels]) -> bool:
    """True if they can lie side by side: of one kind, and none half empty."""
    alike = len({(each.dtype, each.inputs) for each in panels}) == 1
    return alike and not any(each.outputs % ops.panel() for each in panels)


def _biases(linears: tuple[Any, ...]) -> Tensor | None:
    if all(each.bias is None for each in linears):
        return None
    given = [torch.zeros(each.out_features) if each.bias is None else each.bias for each in linears]
    return torch.cat(given)


def _added(linear: Any, x_Td: Tensor, residual: Tensor, out: Tensor | None = None) -> Tensor:
    """``residual + linear(x)``, in ``out`` where it is given."""
    if hasattr(linear, "panels"):
        return ops.linear(x_Td, linear.panels, linear.bias, residual, out)
    return torch.add(residual, linear(x_Td), out=out)


class FusedLayer:
    """``(hidden [T, d], rotary, context) -> [T, d]``: see the module.

    What it computes on the way lies in ``space``, which layers that run one after the other share.
    """

    def __init__(self, layer: Any, space: Workspace) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention = Norm.of(layer.input_layernorm)
        self.before_mlp = Norm.of(layer.post_attention_layernorm)
        self.query_key_value = Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.query, self.key_value = attention.q_proj, self.query_key_value.tail()
        self.gate, self.up = mlp.gate_proj, mlp.up_proj
        self.gated = _alike(self.gate, self.up)
        self.attended, self.down = attention.o_proj, mlp.down_proj
        self.scale, self.head_dim = float(attention.scaling), int(attention.head_dim)
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        self.of_queries, self.of_keys = (Norm.of(each) if each else None for each in norms)
        linears = (*self.query_key_value.linears, self.attended, self.gate, self.up, self.down)
        self.row_by_row = not any(map(_foreign, linears))
        self.space = space
        self.decode = self._for_single_rows()

    def __call__(
        self, hidden_Td: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """Attention, then the gated MLP; each adds to the rows. Neither argument changes."""
        cos, sin = (each[0].contiguous() for each in rotary)
        if self.decode is not None and (runs := context.single_runs()) is not None:
            return self.decode(hidden_Td.contiguous(), cos, sin, runs)
        if self.row_by_row and (read := context.read) is not None:
            return self._read(hidden_Td, cos, sin, context, read)
        between = self._attend(hidden_Td, cos, sin, context)
        if len(between) <= BLOCK_ROWS:
            return self._mlp(between)
        out = torch.empty_like(between)
        for rows, result in zip(between.split(BLOCK_ROWS), out.split(BLOCK_ROWS), strict=True):
            self._mlp(rows, result)
        return out

    def _for_single_rows(self) -> DecodeLayer | None:
        """The layer in one call; None where not all weights lie in panels as that needs them."""
        joined = self.query_key_value
        others = [_in_panels(each) for each in (self.attended, self.gate, self.up, self.down)]
        if joined.panels is None or not self.gated or not all(others):
            return None
        attended, gate, up, down = (each for each in others if each is not None)
        return DecodeLayer(
            LayerWeights(
                before_attention=_weights(self.before_attention),
                of_queries=_weights(self.of_queries),
                of_keys=_weights(self.of_keys),
                before_mlp=_weights(self.before_mlp),
                query_key_value=(joined.panels, joined.bias),
                attended=attended,
                gate=gate,
                up=up,
                down=down,
                heads=joined.sizes[0] // self.head_dim,
                kv_heads=joined.sizes[1] // self.head_dim,
                dim=self.head_dim,
                scale=self.scale,
            )
        )

    def _attend(self, hidden_Td: Tensor, cos: Tensor, sin: Tensor, context: LayerContext) -> Tensor:
        """The rows between attention and MLP, maybe in ``space``."""
        query, key, value = self._heads(self.query_key_value, hidden_Td)
        self._turn(query, self.of_queries, cos, sin)
        self._turn(key, self.of_keys, cos, sin)
        attended = context.attend(query, key, value, self.scale).reshape(len(hidden_Td), -1)
        return _added(self.attended, attended, hidden_Td, self._room("between", hidden_Td))

    def _read(
        self, hidden_Td: Tensor, cos: Tensor, sin: Tensor, context: LayerContext, read: Tensor
    ) -> Tensor:
        """All rows leave their keys and values; only those of ``read`` go through the layer."""
        key, value = self._heads(self.key_value, hidden_Td)
        self._turn(key, self.of_keys, cos, sin)
        rows = hidden_Td.index_select(0, read)
        query = self.query(self.before_attention(rows)).unflatten(1, (-1, self.head_dim))
        self._turn(query, self.of_queries, cos.index_select(0, read), sin.index_select(0, read))
        attended = context.attend(query, key, value, self.scale).flatten(1)
        return hidden_Td.index_copy(0, read, self._mlp(_added(self.attended, attended, rows)))

    def _turn(self, rows_THD: Tensor, norm: Norm | None, cos: Tensor, sin: Tensor) -> None:
        if norm is None:
            ops.turn_heads(rows_THD, cos, sin)
        else:
            ops.turn_heads(rows_THD, cos, sin, norm.weight, norm.eps)

    def _heads(self, joined: Joined, hidden_Td: Tensor) -> Sequence[Tensor]:
        """What each layer of a joined product gives for the normed rows, ``[T, heads, D]``."""
        return [
            each.unflatten(1, (-1, self.head_dim)) for each in self._projected(joined, hidden_Td)
        ]

    def _projected(self, joined: Joined, hidden_Td: Tensor) -> tuple[Tensor, ...]:
        norm = self.before_attention
        out = self._room("projected", hidden_Td, joined)
        if out is None or len(hidden_Td) <= BLOCK_ROWS:
            return joined(self._normed(norm, hidden_Td), out)
        for rows, product in zip(hidden_Td.split(BLOCK_ROWS), out.split(BLOCK_ROWS), strict=True):
            joined(self._normed(norm, rows), product)
        return joined.split(out)

    def _mlp(self, rows_Td: Tensor, out: Tensor | None = None) -> Tensor:
        units = self._units(self._normed(self.before_mlp, rows_Td))
        return _added(self.down, units, rows_Td, out)

    def _units(self, x_Td: Tensor) -> Tensor:
        """``silu(gate(x)) * up(x)``."""
        gate, up = self.gate, self.up
        if self.gated:
            out = self.space.take("units", x_Td, len(x_Td), up.out_features)
            return ops.gated_linear(x_Td, gate.panels, up.panels, gate.bias, up.bias, out)
        gates, values = gate(x_Td), up(x_Td)
        return ops.silu_mul(gates, values, self.space.take("units", gates, *gates.shape))

    def _normed(self, norm: Norm, rows_Td: Tensor) -> Tensor:
        return norm(rows_Td, self._room("normed", rows_Td))

    def _room(self, name: str, rows: Tensor, product: Joined | None = None) -> Tensor | None:
        """For as many rows, as wide as they are or as ``product``, whose own may lie apart."""
        if product is None:
            return self.space.take(name, rows, *rows.shape)
        panels = product.panels
        return None if panels is None else self.space.take(name, rows, len(rows), panels.outputs)


def _weights(norm: Norm | None) -> tuple[Tensor, float] | None:
    return None if norm is None else (norm.weight, norm.eps)


def _in_panels(linear: Any) -> tuple[Panels, Tensor | None] | None:
    """A layer's weights and bias, if they lie in panels."""
    if not hasattr(linear, "panels"):
        return None
    return linear.panels, None if linear.bias is None else linear.bias.detach()


def _foreign(linear: Any) -> bool:
    """True for another library's layer, which may round its rows together, as bitsandbytes' int8
    does: what it gives for one of them depends on the others."""
    return isinstance(linear, nn.Linear) and type(linear) is not nn.Linear


def _alike(gate: Any, up: Any) -> bool:
    """True if both lie in panels of one kind."""
    held = [each.panels.dtype for each in (gate, up) if hasattr(each, "panels")]
    return len(held) == 2 and held[0] == held[1]


def layer(module: Any, dtype: torch.dtype, space: Workspace) -> FusedLayer | None:
    """What is fused of a decoder layer for rows of a type, whatever form its linear layers have.

    ``space`` is shared by the layers of a model. None: a layer that is not known, or norms of
    another type.
    """
    unit = type(module.mlp.act_fn).__name__
    if type(module).__name__ not in KNOWN or unit not in ("SiLU", "SiLUActivation"):
        return None
    norms = (each for name, each in module.named_parameters() if "norm" in name)
    return FusedLayer(module, space) if all(each.dtype == dtype for each in norms) else None
