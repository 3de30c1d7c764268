"""Attention over packed rows: one signature, several backends.

A backend gets the step's fresh queries, keys and values and the cache that already holds the
fresh rows, and returns the attended values. Every sequence attends to itself only, causally.
``transformers``' decoder layers reach it through ``AttentionInterface`` under the name
``"dyvte"``; the step's context travels as a keyword argument of the layer.

Shapes: T rows, H query heads, K key/value heads, D head_dim, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from dyvte.kv_cache import KVCache, PagedCache
from dyvte.packing import PackedBatch, Segment

ATTENTION_NAME = "dyvte"


class AttentionBackend(Protocol):
    """``(q_THD, k_TKD, v_TKD, layer, batch, cache, scale) -> o_THD``; keys are cached already."""

    name: str

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
        """Attend each segment's rows to its own keys, causally."""
        ...


class Tap(Protocol):
    """Sees a layer's fresh queries once its keys and values are cached; must change nothing."""

    def take(
        self, layer: int, q_THD: Tensor, batch: PackedBatch, cache: KVCache, scale: float
    ) -> None:
        """Called once per layer, before the backend attends."""
        ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a decoder layer passes through to attention, unread."""

    layer: int
    batch: PackedBatch
    cache: KVCache
    backend: AttentionBackend
    tap: Tap | None = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packed: StepContext,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function behind ``"dyvte"``: ``[1, H, T, D]`` in, ``[1, T, H, D]`` out."""
    q_THD, k_TKD, v_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    packed.cache.append(packed.layer, packed.batch, k_TKD, v_TKD)
    if packed.tap is not None:
        packed.tap.take(packed.layer, q_THD, packed.batch, packed.cache, scaling)
    out = packed.backend(q_THD, k_TKD, v_TKD, packed.layer, packed.batch, packed.cache, scaling)
    return out[None], None


def register() -> str:
    """Make the name known to ``transformers`` (again is no harm) and return it."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    return ATTENTION_NAME


class DenseAttention:
    """Explicit softmax over the full rectangle in float32: the oracle of every other backend."""

    name = "dense"

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
        """One sequence after the other, scores materialised."""
        parts = []
        for segment, start in zip(batch.segments, batch.starts, strict=True):
            keys, values = cache.rows(segment.seq, layer)
            query = q_THD[start : start + segment.rows].transpose(0, 1)
            groups = query.shape[0] // keys.shape[0]
            keys, values = (x.repeat_interleave(groups, 0) for x in (keys, values))
            scores = torch.bmm(query, keys.transpose(1, 2)).float() * scale
            hidden = ~causal_mask(segment.rows, keys.shape[1], scores.device)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            parts.append(torch.bmm(weights.to(values.dtype), values).transpose(0, 1))
        return torch.cat(parts)


class SdpaAttention:
    """``scaled_dot_product_attention`` per sequence: CPU, and float32 on CUDA.

    A loop equals one padded call at equal lengths and halves it at mixed ones (measured on two
    cores), and it makes a sequence's result independent of its batch.
    """

    name = "sdpa"

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
        """Fresh prefills attend their own fresh rows; the others read the cache."""
        out = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
        for segment, start in zip(batch.segments, batch.starts, strict=True):
            rows = slice(start, start + segment.rows)
            if segment.rows == cache.length(segment.seq, layer):
                keys, values = k_TKD[rows].transpose(0, 1), v_TKD[rows].transpose(0, 1)
            else:
                keys, values = cache.rows(segment.seq, layer)
            out[rows] = _sdpa(q_THD[rows].transpose(0, 1), keys, values, segment, scale)
        return out


def _sdpa(query: Tensor, keys: Tensor, values: Tensor, segment: Segment, scale: float) -> Tensor:
    fresh = segment.rows == keys.shape[1]
    mask = None
    if not fresh and segment.rows > 1:
        mask = causal_mask(segment.rows, keys.shape[1], query.device)
    out = F.scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=fresh and segment.rows > 1,
        scale=scale,
        enable_gqa=query.shape[0] != keys.shape[0],
    )
    return out[0].transpose(0, 1)


class VarlenAttention:
    """``torch.nn.attention.varlen.varlen_attn`` over the paged pool: CUDA, 16-bit.

    One call for prefill and decode rows; the number of keys differs per layer and per sequence
    (``seqused_k``). ``num_splits=1`` avoids pytorch#194167 (paged split-KV leaves the rows after
    the first sequence unwritten) and makes results independent of the batch.
    """

    name = "varlen"

    def __init__(self) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._attend = varlen_attn

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
        device = q_THD.device
        seqs = [segment.seq for segment in batch.segments]
        used = [cache.length(seq, layer) for seq in seqs]
        cu_q = torch.tensor([*batch.starts, q_THD.shape[0]], dtype=torch.int32, device=device)
        seqused = torch.tensor(used, dtype=torch.int32, device=device)
        out = self._attend(
            q_THD.contiguous(),
            cache.k_pool,
            cache.v_pool,
            cu_q,
            None,
            max(batch.lengths),
            max(used),
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=q_THD.shape[1] != cache.heads,
            seqused_k=seqused,
            block_table=cache.block_table(layer, seqs),
            num_splits=1,
        )
        assert isinstance(out, Tensor)
        return out


def causal_mask(rows: int, keys: int, device: torch.device) -> Tensor:
    """``[rows, keys]`` bool, True where attended: the last row sees the last key."""
    last = torch.arange(keys - rows, keys, device=device)
    return torch.arange(keys, device=device)[None, :] <= last[:, None]


def choose_backend(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The fastest backend that is right here: varlen needs CUDA, 16 bit and torch ≥ 2.12."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        try:
            import inspect

            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return SdpaAttention()
        if "block_table" in inspect.signature(varlen_attn).parameters:
            return VarlenAttention()
    return SdpaAttention()
