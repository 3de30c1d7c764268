"""What an answer would be had the image left after a layer: every layer in one run.

The text rows that the full run has after layer e go on alone through the layers above. All
branches of a batch run together: ``[M, N, d]``, M branches under way over the same N rows, one
more after each collected layer. Attention of a sequence is then one call over its M branches
instead of M calls; there is nothing to cache, since a branch runs once.

Shapes: M branches, N rows of all sequences, n rows of one, p rows before its first image, d
hidden size, A rotary axes, H query heads, K key/value heads, D head_dim, L collected layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.attention import StepContext, causal_mask
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch, Segment


@dataclass(frozen=True, slots=True)
class Twig:
    """One sequence of every branch: ``rows`` text rows behind ``prefix`` rows of ``seq``.

    ``prefix`` rows are read from the full run's cache; ``positions [n]`` or ``[A, n]`` are the
    whole prompt's. ``deepstack [rows, levels, d]`` is what the model still adds to the rows (to a
    last row that is visual); None for text alone, which gets nothing.
    """

    seq: int
    prefix: int
    rows: int
    positions: Tensor
    deepstack: Tensor | None = None


def run_branches(
    model: ModelAdapter,
    cache: KVCache,
    twigs: Sequence[Twig],
    layers: Sequence[int],
    starts: Sequence[Tensor],
) -> Tensor:
    """``[L, N, d]`` after the last layer; ``starts[j] [N, d]`` are the rows after ``layers[j]``."""
    attention = _BranchAttention(cache, twigs)
    one = starts[0]
    cos, sin = model.rotary(one, torch.cat([twig.positions for twig in twigs], dim=-1))
    levels = _levels(twigs, one)
    under_way = one.new_empty(0, *one.shape)
    begin = dict(zip(layers, starts, strict=True))
    for layer in range(model.decoder.num_layers):
        count = under_way.shape[0]
        if count:
            rows = under_way.flatten(0, 1)
            segments = (Segment(0, rows.shape[0]),)
            places = torch.arange(rows.shape[0], device=rows.device)
            added = None if levels is None else levels.repeat(count, 1, 1)
            batch = PackedBatch(segments, rows, places, added)
            context = StepContext(layer, batch, _Nothing(), attention)
            rotary = (_repeat(cos, count), _repeat(sin, count))
            under_way = model.run_layer(layer, rows, rotary, context).view_as(under_way)
        if layer in begin:
            under_way = torch.cat([under_way, begin[layer][None]])
    return under_way


def _levels(twigs: Sequence[Twig], rows: Tensor) -> Tensor | None:
    """Deepstack of all twigs, ``[N, levels, d]``; zeros where one has none."""
    depth = {each.deepstack.shape[1] for each in twigs if each.deepstack is not None}
    if not depth:
        return None
    none = rows.new_zeros(1, *depth, rows.shape[1])
    return torch.cat(
        [none.expand(t.rows, -1, -1) if t.deepstack is None else t.deepstack for t in twigs]
    )


def _repeat(rotary: Tensor, count: int) -> Tensor:
    return rotary.repeat(*[1] * (rotary.ndim - 2), count, 1)


@dataclass(slots=True)
class _BranchAttention:
    """Causal attention of each twig's rows in each branch, its prefix's keys before its own."""

    full: KVCache
    twigs: Sequence[Twig]
    name: str = "branches"

    def __call__(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        layer: int,
        batch: PackedBatch,
        cache: KVCache,
        scale: float,
    ) -> Tensor:
        """T = M · N rows, branch by branch."""
        stops = list(accumulate(twig.rows for twig in self.twigs))
        out = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
        q, k, v, o = (x.unflatten(0, (-1, stops[-1])) for x in (q_THD, k_TKD, v_TKD, out))
        for twig, stop in zip(self.twigs, stops, strict=True):
            rows = slice(stop - twig.rows, stop)
            query, keys, values = (x[:, rows].transpose(1, 2) for x in (q, k, v))
            mask = None
            if twig.prefix:
                before = (x[None, :, : twig.prefix] for x in self.full.rows(twig.seq, layer))
                keys, values = (
                    torch.cat([old.expand(len(new), -1, -1, -1), new], dim=2)
                    for old, new in zip(before, (keys, values), strict=True)
                )
                mask = causal_mask(twig.rows, twig.prefix + twig.rows, keys.device)
            found = F.scaled_dot_product_attention(
                query,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=query.shape[1] != keys.shape[1],
            )
            o[:, rows] = found.transpose(1, 2)
        return out


class _Nothing(KVCache):
    """A cache that forgets at once."""

    def __init__(self) -> None:
        self._lengths = {}

    def append(self, layer: int, batch: PackedBatch, k_THD: Tensor, v_THD: Tensor) -> None:
        """Keep nothing."""

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """There are none."""
        raise LookupError("branches keep no keys")

    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None: ...

    def _fork(self, parent: int, child: int) -> None: ...

    def _drop(self, seq: int) -> None: ...
