"""A look into a decoder layer before it runs: the last row's query, and every row's key.

The layer's own norm and projections are used, and the rotary function of its own modelling
module, so that a family with another rotary embedding is right without a word here.

Shapes: n rows, d hidden size, H query heads, K key/value heads, D head_dim.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def last_query_and_keys(
    layer: Any, hidden_nd: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, float]:
    """``q [H, D]`` of the last row, ``k [n, K, D]`` and the scale of their product.

    ``rotary`` are cos and sin ``[1, n, D]`` of the rows.
    """
    attention: Any = layer.self_attn
    normed = layer.input_layernorm(hidden_nd)
    query = _heads(attention, "q", normed[-1:])
    keys = _heads(attention, "k", normed)
    cos, sin = rotary
    apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    # The function turns queries and keys alike; each side is taken where it is wanted.
    turned_q, _ = apply(query, query, cos[..., -1:, :], sin[..., -1:, :])
    turned_k, _ = apply(keys, keys, cos, sin)
    return turned_q[0, :, 0], turned_k[0].transpose(0, 1), float(attention.scaling)


def _heads(attention: Any, name: str, normed_nd: Tensor) -> Tensor:
    """``[1, heads, n, D]``, through the family's per-head norm where it has one."""
    out = getattr(attention, f"{name}_proj")(normed_nd).view(len(normed_nd), -1, attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)
    heads: Tensor = norm(out) if norm is not None else out
    return heads.transpose(0, 1)[None]
