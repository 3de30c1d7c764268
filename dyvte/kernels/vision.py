"""What only vision towers need of the kernels, called with tensors, float32.

Shapes: T rows, K numbers of a row, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dyvte.kernels import ops


def layer_norm(
    x_TK: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor | None = None
) -> Tensor:
    """Rows less their mean, divided by their deviation, times ``weight [K]``, plus ``bias [K]``."""
    x, rows, apart = ops.numbers_together(x_TK)
    width = x.shape[1]
    out = ops.room(out, x, rows, width)
    ops.library().dyvte_layer_norm(
        x.data_ptr(),
        rows,
        apart,
        width,
        weight.data_ptr(),
        bias.data_ptr(),
        eps,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def attend_pictures(
    query_key_value: Iterable[Tensor], images: int, scale: float, out: Tensor | None = None
) -> Tensor:
    """Each row over all rows of its picture, of ``images`` one behind the other.

    Three times ``[T, H, D] → [T, H * D]``.
    """
    given = map(ops.heads_together, query_key_value)
    (query, query_apart), (keys, keys_apart), (values, values_apart) = given
    rows, heads, dim = query.shape
    out = ops.room(out, query, rows, heads * dim)
    ops.library().dyvte_attend_pictures(
        query.data_ptr(),
        query_apart,
        keys.data_ptr(),
        keys_apart,
        values.data_ptr(),
        values_apart,
        images,
        rows // images,
        heads,
        dim,
        scale,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out
