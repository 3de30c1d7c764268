"""Takes the place of torch's paged varlen kernel, which only CUDA has.

Does by its documented arguments what the kernel would do, sequence by sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dyvte.attention import causal_mask


def paged_kernel(
    query: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    cu_q: Tensor,
    cu_k: None,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
    num_splits: int,
) -> Tensor:
    """``varlen_attn`` with a block table."""
    assert (window_size, num_splits) == ((-1, 0), 1)
    assert enable_gqa == (query.shape[1] != k_pool.shape[2])
    assert {cu_q.dtype, seqused_k.dtype, block_table.dtype} == {torch.int32}
    assert max_q >= int(cu_q.diff().max())
    assert max_k >= int(seqused_k.max())
    parts = []
    for index, used in enumerate(seqused_k.tolist()):
        rows = query[cu_q[index] : cu_q[index + 1]].transpose(0, 1)
        keys, values = (
            pool[block_table[index].long()].flatten(0, 1)[:used].transpose(0, 1)
            for pool in (k_pool, v_pool)
        )
        parts.append(_attended(rows, keys, values, scale, enable_gqa))
    return torch.cat(parts)


def unpaged_kernel(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> Tensor:
    """``varlen_attn`` as torch 2.11 has it: no pages, as many key heads as query heads."""
    assert window_size == (-1, 0)
    assert query.shape[1] == keys.shape[1] == values.shape[1]
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    parts = []
    for index in range(len(cu_q) - 1):
        rows = query[cu_q[index] : cu_q[index + 1]].transpose(0, 1)
        span = slice(int(cu_k[index]), int(cu_k[index + 1]))
        own = (keys[span].transpose(0, 1), values[span].transpose(0, 1))
        parts.append(_attended(rows, *own, scale, False))
    return torch.cat(parts)


def _attended(rows: Tensor, keys: Tensor, values: Tensor, scale: float, grouped: bool) -> Tensor:
    mask = causal_mask(rows.shape[1], keys.shape[1], rows.device)
    out = scaled_dot_product_attention(rows, keys, values, mask, scale=scale, enable_gqa=grouped)
    return out.transpose(0, 1)
