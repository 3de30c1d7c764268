"""Flash kernels over ragged batches: ``torch.nn.attention.varlen`` on CUDA, 16 bit.

One call serves prefill and decode rows; the number of keys differs per layer and per sequence.
Where the kernel reads pages (torch ≥ 2.12) it is pointed at the pool; where it does not, the keys
of a step are laid side by side first.

Shapes: T rows, H query heads, K key/value heads, D head_dim, S segments, W pages of a sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyvte.kv_cache import KVCache, PagedCache
from dyvte.packing import PackedBatch
from dyvte.transfer import upload

Kernel = Callable[..., Any]


def kernel() -> Kernel | None:
    """torch's varlen attention; None where this torch has none that takes a scale."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "scale" in inspect.signature(varlen_attn).parameters else None


def reads_pages(attend: Kernel) -> bool:
    """True if the kernel takes block tables."""
    return "block_table" in inspect.signature(attend).parameters


@dataclass(frozen=True, slots=True)
class PageTables:
    """Where the keys of S sequences lie in one layer: ``used [S]``, ``blocks [S, W]`` (int32).

    ``starts [S + 1]`` (int32) frames their query rows; ``most_rows`` and ``most_keys`` bound any
    sequence's and need not be met.
    """

    starts: Tensor
    used: Tensor
    blocks: Tensor
    most_rows: int
    most_keys: int


class VarlenAttention:
    """Reads the paged pool in place.

    ``num_splits=1`` avoids pytorch#194167 (paged split-KV leaves the rows after the first
    sequence unwritten) and makes results independent of the batch.
    """

    name = "varlen"

    def __init__(self, attend: Kernel | None = None) -> None:
        self._attend = attend or kernel()

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
        """Causality is aligned at the last key of each sequence (window right = 0)."""
        if not isinstance(cache, PagedCache):
            raise TypeError("varlen attention reads a PagedCache")
        return self.attend_pages(q_THD, cache, _tables(layer, batch, cache, q_THD.device), scale)

    def attend_pages(
        self, q_THD: Tensor, cache: PagedCache, tables: PageTables, scale: float
    ) -> Tensor:
        """Attend rows whose keys the tables name; reads nothing back from the device."""
        assert self._attend is not None, "asked where torch has no varlen attention"
        out = self._attend(
            q_THD.contiguous(),
            cache.k_pool,
            cache.v_pool,
            tables.starts,
            None,
            tables.most_rows,
            tables.most_keys,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=q_THD.shape[1] != cache.heads,
            seqused_k=tables.used,
            block_table=tables.blocks,
            num_splits=1,
        )
        assert isinstance(out, Tensor)
        return out


def _tables(layer: int, batch: PackedBatch, cache: PagedCache, device: torch.device) -> PageTables:
    seqs = [segment.seq for segment in batch.segments]
    used = [cache.length(seq, layer) for seq in seqs]
    return PageTables(
        starts=_int32([*batch.starts, sum(batch.lengths)], device),
        used=_int32(used, device),
        blocks=cache.block_table(layer, seqs),
        most_rows=max(batch.lengths),
        most_keys=max(used),
    )


class GatheredVarlenAttention:
    """Lays the keys of a step side by side first, for a torch whose kernel reads no pages.

    A step of fresh prefills alone needs no gathering: its own rows are all its keys.
    """

    name = "varlen-gathered"

    def __init__(self, attend: Kernel | None = None) -> None:
        self._attend = attend or kernel()

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
        """Causality is aligned at the last key of each sequence (window right = 0)."""
        assert self._attend is not None, "asked where torch has no varlen attention"
        used = [cache.length(segment.seq, layer) for segment in batch.segments]
        if used != batch.lengths:
            k_TKD, v_TKD = _gathered(layer, batch, cache)
        groups = q_THD.shape[1] // k_TKD.shape[1]
        if groups > 1:  # this torch's kernel wants as many key heads as query heads
            k_TKD, v_TKD = (x.repeat_interleave(groups, 1) for x in (k_TKD, v_TKD))
        device = q_THD.device
        ends = [sum(used[:count]) for count in range(len(used) + 1)]
        out = self._attend(
            q_THD.contiguous(),
            k_TKD.contiguous(),
            v_TKD.contiguous(),
            _int32([*batch.starts, sum(batch.lengths)], device),
            _int32(ends, device),
            max(batch.lengths),
            max(used),
            scale=scale,
            window_size=(-1, 0),
        )
        assert isinstance(out, Tensor)
        return out


def _gathered(layer: int, batch: PackedBatch, cache: KVCache) -> tuple[Tensor, Tensor]:
    """Keys and values ``[T_k, K, D]`` of all segments, one behind the other."""
    found = [cache.rows(segment.seq, layer) for segment in batch.segments]
    keys = torch.cat([each.transpose(0, 1) for each, _ in found])
    return keys, torch.cat([each.transpose(0, 1) for _, each in found])


def _int32(numbers: Sequence[int], device: torch.device) -> Tensor:
    return upload(numbers, torch.int32, device)
