"""A whole decoder layer for the newest row of each sequence, as one call of the kernels.

Shapes: S sequences, d hidden size, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.kernels import ops
from dyvte.kernels.ops import FORMS, Panels, Run

Linear = tuple[Panels, Tensor | None]
"""Weights and bias."""
Norm = tuple[Tensor, float] | None
"""Weights and eps; None: no norm."""

_at, _i64, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _at), ("eps", _float))


class _Linear(ctypes.Structure):
    _fields_ = (("panels", _at), ("bias", _at), ("form", _i64), ("inputs", _i64), ("outputs", _i64))


class _Layer(ctypes.Structure):
    """``DyvteLayer`` in kernels.h."""

    _fields_ = (
        *((name, _Norm) for name in ("before_attention", "of_queries", "of_keys", "before_mlp")),
        *((name, _Linear) for name in ("query_key_value", "attended", "gate", "up", "down")),
        ("heads", _i64),
        ("kv_heads", _i64),
        ("dim", _i64),
        ("scale", _float),
    )


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """All of a layer in float32. Queries, keys and values come from one product, in this order;
    ``gate`` and ``up`` are alike in shape and type."""

    before_attention: Norm
    of_queries: Norm
    of_keys: Norm
    before_mlp: Norm
    query_key_value: Linear
    attended: Linear
    gate: Linear
    up: Linear
    down: Linear
    heads: int
    kv_heads: int
    dim: int
    scale: float


class DecodeLayer:
    """``(hidden [S, d], cos, sin [S, D], runs) -> [S, d]``: what the kernels give one by one, to
    the bit. Writes each row's key and value to the end of its run, which counts it already."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights  # whose memory is pointed into
        self._layer = _Layer(
            *map(_norm, (weights.before_attention, weights.of_queries, weights.of_keys)),
            _norm(weights.before_mlp),
            *map(_linear, (weights.query_key_value, weights.attended, weights.gate, weights.up)),
            _linear(weights.down),
            weights.heads,
            weights.kv_heads,
            weights.dim,
            weights.scale,
        )
        self._address = ctypes.addressof(self._layer)

    def __call__(
        self, hidden_Sd: Tensor, cos_SD: Tensor, sin_SD: Tensor, runs: Sequence[Run]
    ) -> Tensor:
        """See the class; ``hidden``, ``cos`` and ``sin`` are contiguous."""
        out = torch.empty_like(hidden_Sd)
        ops.library().dyvte_decode_layer(
            self._address,
            hidden_Sd.data_ptr(),
            len(runs),
            cos_SD.data_ptr(),
            sin_SD.data_ptr(),
            ops.in_memory(runs),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out


def _norm(norm: Norm) -> _Norm:
    return _Norm(None, 0.0) if norm is None else _Norm(norm[0].data_ptr(), norm[1])


def _linear(linear: Linear) -> _Linear:
    panels, bias = linear
    return _Linear(
        panels.data.data_ptr(),
        None if bias is None else bias.data_ptr(),
        FORMS[panels.dtype],
        panels.inputs,
        panels.outputs,
    )
