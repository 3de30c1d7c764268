"""Attention over packed rows: one signature, several backends.

A backend gets the step's fresh queries, keys and values and the cache that already holds the
fresh rows, and returns the attended values. Every sequence attends to itself only, causally.
``transformers``' decoder layers reach it through ``AttentionInterface`` under the name
``"dyvte"``; the step's context travels as a keyword argument of the layer.

Shapes: T rows, H query heads, K key/value heads, D head_dim, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from dyvte import varlen
from dyvte.kernels import ops
from dyvte.kernels.ops import Run
from dyvte.kv_cache import KVCache, RunCache
from dyvte.packing import PackedBatch, Segment
from dyvte.transfer import upload

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


@runtime_checkable
class WatchesRows(Protocol):
    """A backend that looks at every row's queries, also where nobody reads what becomes of it."""

    watches_rows: ClassVar[bool]


class Tap(Protocol):
    """Sees a layer's fresh queries once its keys and values are cached; must change nothing.

    What it keeps of them it copies: the layer may use their memory again.
    """

    def take(
        self, layer: int, q_THD: Tensor, batch: PackedBatch, cache: KVCache, scale: float
    ) -> None:
        """Called once per layer, before the backend attends."""
        ...


class LayerContext(Protocol):
    """What a decoder layer passes through to attention, unread."""

    @property
    def deepstack(self) -> Tensor | None:
        """``[T, K, d]`` that the model still adds to the rows after its first K layers."""
        ...

    @property
    def read(self) -> Tensor | None:
        """Indices (int64) of the rows whose result somebody reads; None: of all.

        A layer may compute the keys and values of all rows and queries of these alone: what the
        others become does not matter.
        """
        ...

    def attend(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        """Cache the fresh rows of the layer, then attend them. Keeps none of the three.

        ``q`` has all rows, or those of ``read`` alone.
        """
        ...

    def single_runs(self) -> Sequence[Run] | None:
        """Where each sequence's one fresh key and value go, the last rows of these runs.

        Who asks writes them and attends to the runs itself; None: ``attend`` must be called.
        """
        ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """The rows of one packed step in one layer.

    ``reads`` are the rows whose result somebody reads, each the last of a segment; None: all are.
    """

    layer: int
    batch: PackedBatch
    cache: KVCache
    backend: AttentionBackend
    tap: Tap | None = None
    reads: Sequence[int] | None = None

    @property
    def deepstack(self) -> Tensor | None:
        """The batch's."""
        return self.batch.deepstack

    @property
    def read(self) -> Tensor | None:
        """``reads`` as a tensor."""
        if self.reads is None:
            return None
        return upload(self.reads, torch.int64, self.batch.hidden.device)

    def single_runs(self) -> Sequence[Run] | None:
        """Where ``RunAttention`` would attend one row of each sequence, and nobody taps."""
        cache = self.cache
        if self.tap is not None or len(self.batch.segments) < len(self.batch.hidden):
            return None
        if not isinstance(self.backend, RunAttention) or not isinstance(cache, RunCache):
            return None
        return cache.grown(self.layer, self.batch)

    def attend(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        """Cache the fresh rows, let the tap see the queries, then attend."""
        self.cache.append(self.layer, self.batch, k_TKD, v_TKD)
        if self.tap is not None:
            self.tap.take(self.layer, q_THD, self.batch, self.cache, scale)
        if self.reads is None or len(q_THD) == len(k_TKD):
            return self.backend(q_THD, k_TKD, v_TKD, self.layer, self.batch, self.cache, scale)
        if not self.reads:
            return q_THD
        rows, read = self.batch.ends(self.reads), self.read
        k_TKD, v_TKD = k_TKD[read], v_TKD[read]
        return self.backend(q_THD, k_TKD, v_TKD, self.layer, rows, self.cache, scale)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packed: LayerContext,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function behind ``"dyvte"``: ``[1, H, T, D]`` in, ``[1, T, H, D]`` out."""
    q_THD, k_TKD, v_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed.attend(q_THD, k_TKD, v_TKD, scaling)[None], None


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
    cores), and it makes a sequence's result independent of its batch. Keys that lie head by head
    are read in 0.7 of the time of a layer's own output, where a head's rows lie a whole row apart.
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
        """Read the cache where it lies in place; elsewhere fresh prefills read their own rows."""
        parts = []
        for segment, start in zip(batch.segments, batch.starts, strict=True):
            rows = slice(start, start + segment.rows)
            fresh = segment.rows == cache.length(segment.seq, layer)
            if fresh and not cache.in_place:
                keys, values = k_TKD[rows].transpose(0, 1), v_TKD[rows].transpose(0, 1)
            else:
                keys, values = cache.rows(segment.seq, layer)
            query = q_THD[rows].transpose(0, 1)
            parts.append(_sdpa(query, keys, values, segment, scale))
        return torch.cat(parts)


def _sdpa(query: Tensor, keys: Tensor, values: Tensor, segment: Segment, scale: float) -> Tensor:
    if segment.rows == 1:
        return _one_row(query, keys, values, scale)
    fresh = segment.rows == keys.shape[1]
    out = F.scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=None if fresh else causal_mask(segment.rows, keys.shape[1], query.device),
        is_causal=fresh,
        scale=scale,
        enable_gqa=query.shape[0] != keys.shape[0],
    )
    return out[0].transpose(0, 1)


def _one_row(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The newest row ``[H, 1, D]`` sees all keys: heads that share keys go as rows of one head.

    So keys are read once and not once a query head: 0.6 of the time with 4 or 7 heads to a key
    (float32, CPU), 0.1 in bf16.
    """
    heads, _, dim = query.shape
    grouped = query.reshape(1, keys.shape[0], -1, dim)
    out = F.scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale)
    return out.reshape(1, heads, dim)


class RunAttention:
    """A CPU's, over the runs of a ``RunCache``, through kernels of ours.

    A decode step reads each key and value once, for all sequences side by side; prefills in
    bfloat16 are SDPA's. In float32 a row's result has the same bits alone and in any batch, and
    however its prompt was cut into pieces of several rows.
    """

    name = "run"

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
        """Segments of one row together, those of several one after the other."""
        if not isinstance(cache, RunCache):
            return SdpaAttention()(q_THD, k_TKD, v_TKD, layer, batch, cache, scale)
        runs = [cache.run(each.seq, layer) for each in batch.segments]
        single = [i for i, each in enumerate(batch.segments) if each.rows == 1]
        if len(single) == len(runs):
            return ops.attend_single(q_THD, runs, cache.heads, scale)
        out = q_THD.new_empty(q_THD.shape)
        if single:
            places = torch.tensor([batch.starts[i] for i in single])
            own = [runs[i] for i in single]
            out[places] = ops.attend_single(q_THD[places], own, cache.heads, scale)
        for segment, start, run in zip(batch.segments, batch.starts, runs, strict=True):
            if segment.rows > 1:
                rows = slice(start, start + segment.rows)
                if ops.attends_causally(q_THD):
                    ops.attend_causally(q_THD[rows], run, cache.heads, scale, out[rows])
                else:
                    keys, values = cache.rows(segment.seq, layer)
                    out[rows] = _sdpa(q_THD[rows].transpose(0, 1), keys, values, segment, scale)
        return out


def causal_mask(rows: int, keys: int, device: torch.device) -> Tensor:
    """``[rows, keys]`` bool, True where attended: the last row sees the last key."""
    last = torch.arange(keys - rows, keys, device=device)
    return torch.arange(keys, device=device)[None, :] <= last[:, None]


def choose_backend(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The fastest backend that is right here: flash kernels need CUDA and 16 bit, ours a CPU."""
    if device.type == "cpu" and ops.computes(dtype):
        return RunAttention()
    attend = varlen.kernel()
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or attend is None:
        return SdpaAttention()
    if varlen.reads_pages(attend):
        return varlen.VarlenAttention(attend)
    return varlen.GatheredVarlenAttention(attend)
