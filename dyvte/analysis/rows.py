"""Attention weights as a stream of query rows: layer by layer, a block at a time.

``WatchedAttention`` stands in for the engine's attention backend: it lets readers see the weights
of prefills and hands the step on to the backend that really attends, so that nothing about the
model or the result changes. No matrix is ever whole: a block of R query rows against n keys takes
``BYTES_PER_WEIGHT * H * R * n`` bytes, and R is chosen so that this stays under the budget (with
one row as the least). Max-pooling over heads happens inside the block (METHOD: A is pooled).

Shapes: H query heads, K key/value heads, D head_dim, n rows of a sequence, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend
from dyvte.kv_cache import KVCache
from dyvte.packing import PackedBatch

BUDGET = 32 * 2**20
BYTES_PER_WEIGHT = 16  # scores in the model's type, in float32, masked, and after the softmax


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """A block of rows of one layer's A = max over heads of the causal softmax attention.

    ``weights [R, n]`` float32; ``queries [R]`` and ``keys [n]`` (int64) are the rows' places in
    the prompt as it was before anything left.
    """

    layer: int
    queries: Tensor
    keys: Tensor
    weights: Tensor


class RowReader(Protocol):
    """Whoever looks at the rows; keeps what it needs of them and no more."""

    def take(self, rows: AttentionRows) -> None:
        """See one block. Blocks of a layer come in order, layers in order."""
        ...


class WatchedAttention:
    """A backend that shows its readers the weights of every prefill of one sequence.

    ``positions [A, rows]`` are the whole prompt's, for a family with several rotary axes.
    """

    name = "watched"
    watches_rows: ClassVar[bool] = True

    def __init__(
        self,
        backend: AttentionBackend,
        readers: Sequence[RowReader],
        budget: int = BUDGET,
        positions: Tensor | None = None,
    ) -> None:
        self._backend = backend
        self._readers = tuple(readers)
        self._budget = budget
        self._positions = positions

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
        """Show, then attend. Raises ValueError for a step of several sequences."""
        if len(batch.segments) != 1:
            raise ValueError(f"one sequence at a time is watched, not {len(batch.segments)}")
        (segment,) = batch.segments
        if segment.prefill:
            self._show(q_THD, k_TKD, layer, batch, scale)
        return self._backend(q_THD, k_TKD, v_TKD, layer, batch, cache, scale)

    def _show(
        self, q_THD: Tensor, k_TKD: Tensor, layer: int, batch: PackedBatch, scale: float
    ) -> None:
        places = places_of(batch.positions, self._positions)
        for start, weights in _blocks(q_THD, k_TKD, scale, self._budget):
            queries = places[start : start + weights.shape[0]]
            for reader in self._readers:
                reader.take(AttentionRows(layer, queries, places, weights))


def places_of(positions: Tensor, whole: Tensor | None) -> Tensor:
    """``[n]``: which rows of the prompt have ``positions [n]`` or, out of ``whole``, ``[A, n]``.

    Rows that stay keep their positions, and no two rows of a prompt share all of theirs.
    """
    if whole is None or positions.ndim == 1:
        return positions
    axes, base = len(whole), int(whole.max()) + 1
    digits = torch.tensor([base**axis for axis in range(axes)], device=positions.device)
    known = (whole.to(positions.device) * digits[:, None]).sum(0).sort()
    found = torch.searchsorted(known.values, (positions * digits[:, None]).sum(0))
    return known.indices[found]


def block_rows(heads: int, keys: int, budget: int = BUDGET) -> int:
    """Query rows R of a block: ``BYTES_PER_WEIGHT * H * R * n <= budget``, at least one."""
    return max(1, budget // (BYTES_PER_WEIGHT * heads * keys))


def _blocks(
    q_nHD: Tensor, k_nKD: Tensor, scale: float, budget: int
) -> Iterator[tuple[int, Tensor]]:
    """``(first row, A [R, n])``: every query against every key of a fresh prefill."""
    count, heads, _ = q_nHD.shape
    groups = heads // k_nKD.shape[1]
    k_KDn = k_nKD.permute(1, 2, 0)
    last = torch.arange(count, device=q_nHD.device)
    size = block_rows(heads, count, budget)
    for start in range(0, count, size):
        stop = min(start + size, count)
        # Query heads of one key head side by side: keys are read once and never repeated.
        query = q_nHD[start:stop].unflatten(1, (-1, groups)).permute(1, 2, 0, 3).flatten(1, 2)
        scores = torch.bmm(query, k_KDn).float().mul_(scale).unflatten(1, (groups, -1))
        scores.masked_fill_(last[None, :] > last[start:stop, None], float("-inf"))
        yield start, scores.softmax(-1).amax((0, 1))
