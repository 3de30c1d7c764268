"""The kernels, called with tensors: on a CPU, results in new tensors or in a given ``out``.

Products over panels and causal attention are for float32; what is read once, norms, angles, gated
units and the attention of single rows, also for bfloat16, which is computed in float32 and rounded
once.

Weights lie in panels: ``[ceil(N / P), K, P]``, where P outputs lie side by side for each input.
They are held in the smallest type that loses nothing: a checkpoint in 16 bit stays 16 bit, and its
numbers are widened in registers. Each result's row has the same bits in any company.

Shapes: T rows, K inputs, N outputs, H query heads, G key/value heads, D head_dim, S sequences.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.kernels import build

FORMS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ACTIVATIONS = {"": 0, "quick_gelu": 1, "gelu": 2, "gelu_tanh": 3}
MAX_DIM = 512  # of a head in attention of several rows
Run = tuple[int, int, int, int]
"""Keys' and values' addresses, numbers from head to head, rows."""

_i64, _int, _float, _at = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
_SIGNATURES = {
    "dyvte_panel": [],
    "dyvte_linear": [
        *[_at, _i64, _i64, _i64, _at, _int, _i64, *[_at] * 3, _int, _at, _at, _i64, _int]
    ],
    "dyvte_layer_norm": [_at, _i64, _i64, _i64, _at, _at, _float, _at, _int],
    "dyvte_rms_norm": [_int, _at, _i64, _i64, _i64, _at, _float, _at, _int],
    "dyvte_turn_heads": [_int, _at, _i64, _i64, _i64, _i64, _at, _float, _at, _at, _int],
    "dyvte_silu_mul": [_int, _at, _i64, _at, _i64, _i64, _i64, _at, _int],
    "dyvte_attend_causally": [_at, _i64, _i64, _at, _i64, _i64, _i64, _float, _at, _int],
    "dyvte_attend_pictures": [*[_at, _i64] * 3, *[_i64] * 4, _float, _at, _int],
    "dyvte_append_single": [_i64, _at, _i64, _at, _i64, _at, _i64, _i64, _i64],
    "dyvte_decode_layer": [_at, _at, _i64, _at, _at, _at, _at, _int],
    "dyvte_attend_single": [_int, _at, _i64, _at, _i64, _i64, _i64, _i64, _float, _at, _int],
}


@dataclass(frozen=True, slots=True)
class Panels:
    """Weights ``[N, K]`` laid out; ``data`` holds the bits of ``dtype``."""

    data: Tensor
    dtype: torch.dtype
    inputs: int
    outputs: int


@cache
def library() -> ctypes.CDLL:
    """With the types of arguments told. Only where ``available``."""
    found = build.library()
    assert found is not None, "asked whether they are available first"
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes = arguments
        function.restype = _int if name == "dyvte_panel" else None
    return found


def available() -> bool:
    """True if there are kernels for this processor; the first call may compile them."""
    return build.library() is not None


def computes(dtype: torch.dtype) -> bool:
    """True if there are kernels for rows of this type."""
    return dtype in (torch.float32, torch.bfloat16) and available()


@cache
def panel() -> int:
    """Outputs of a panel on this processor: P."""
    return int(library().dyvte_panel())


def lossless_dtype(weight: Tensor) -> torch.dtype:
    """The smallest type that holds every number of a float32 tensor as it is."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(weight.to(dtype).float(), weight):
            return dtype
    return torch.float32


def lay_out(weight: Tensor) -> Panels:
    """Panels of float32 weights ``[N, K]``."""
    outputs, inputs = weight.shape
    width, dtype = panel(), lossless_dtype(weight)
    padded = F.pad(weight, (0, 0, 0, -outputs % width)).to(dtype)
    columns = padded.view(-1, width, inputs).transpose(1, 2)
    if dtype == torch.bfloat16:  # the halves of a word are a vector's width apart
        columns = columns.unflatten(2, (2, width // 2)).transpose(2, 3).flatten(2)
    data = columns.contiguous()
    return Panels(
        data if dtype == torch.float32 else data.view(torch.int16), dtype, inputs, outputs
    )


def dense(panels: Panels) -> Tensor:
    """The float32 weights ``[N, K]`` that panels were laid out from."""
    columns = panels.data.view(panels.dtype).float()
    width = columns.shape[2]
    if panels.dtype == torch.bfloat16:
        columns = columns.unflatten(2, (width // 2, 2)).transpose(2, 3).flatten(2)
    return columns.transpose(1, 2).reshape(-1, panels.inputs)[: panels.outputs]


def linear(
    x_TK: Tensor,
    panels: Panels,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``[T, K] → [T, N]``; ``residual [T, N]`` is added to it, and may not overlap ``out``."""
    return _linear(x_TK, panels, bias, None, None, "", residual, out)


def activated_linear(
    x_TK: Tensor,
    panels: Panels,
    bias: Tensor | None,
    activation: str,
    out: Tensor | None = None,
) -> Tensor:
    """One of ``ACTIVATIONS`` of the product: ``[T, K] → [T, N]``."""
    return _linear(x_TK, panels, bias, None, None, activation, None, out)


def gated_linear(
    x_TK: Tensor,
    gate: Panels,
    up: Panels,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``silu(gate(x)) * up(x)``: ``[T, K] → [T, N]``, to the bit what the three give one by one.

    Both weights are alike in shape and type.
    """
    assert (gate.dtype, gate.inputs, gate.outputs) == (up.dtype, up.inputs, up.outputs)
    return _linear(x_TK, up, up_bias, gate, gate_bias, "", None, out)


def _linear(
    x_TK: Tensor,
    panels: Panels,
    bias: Tensor | None,
    gate: Panels | None,
    gate_bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    x, rows, apart = numbers_together(x_TK)
    added = None if residual is None else residual.contiguous()
    out = room(out, x, rows, panels.outputs, apart=residual is None)
    library().dyvte_linear(
        x.data_ptr(),
        rows,
        apart,
        panels.inputs,
        panels.data.data_ptr(),
        FORMS[panels.dtype],
        panels.outputs,
        None if bias is None else bias.data_ptr(),
        None if gate is None else gate.data.data_ptr(),
        None if gate_bias is None else gate_bias.data_ptr(),
        ACTIVATIONS[activation],
        None if added is None else added.data_ptr(),
        out.data_ptr(),
        out.stride(0),
        torch.get_num_threads(),
    )
    return out


def rms_norm(x_TK: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """Rows divided by their root mean square, times ``weight [K]``."""
    x, rows, apart = numbers_together(x_TK)
    width = x.shape[1]
    out = room(out, x, rows, width)
    library().dyvte_rms_norm(
        FORMS[x.dtype],
        x.data_ptr(),
        rows,
        apart,
        width,
        weight.data_ptr(),
        eps,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def turn_heads(
    x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, norm: Tensor | None = None, eps: float = 0.0
) -> None:
    """Rotary embedding, in place, after a norm of each head where ``norm [D]`` is given."""
    rows, heads, dim = x_THD.shape
    library().dyvte_turn_heads(
        FORMS[x_THD.dtype],
        x_THD.data_ptr(),
        rows,
        x_THD.stride(0),
        heads,
        dim,
        None if norm is None else norm.data_ptr(),
        eps,
        cos_TD.data_ptr(),
        sin_TD.data_ptr(),
        torch.get_num_threads(),
    )


def silu_mul(gate_TN: Tensor, up_TN: Tensor, out: Tensor | None = None) -> Tensor:
    """``silu(gate) * up``: ``[T, N]``."""
    (gate, rows, gate_apart), (up, _, up_apart) = map(numbers_together, (gate_TN, up_TN))
    width = gate.shape[1]
    out = room(out, gate, rows, width)
    library().dyvte_silu_mul(
        FORMS[gate.dtype],
        gate.data_ptr(),
        gate_apart,
        up.data_ptr(),
        up_apart,
        rows,
        width,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def attends_causally(query: Tensor) -> bool:
    """True if several rows ``[T, H, D]`` can be attended here."""
    return query.dtype == torch.float32 and query.shape[2] <= MAX_DIM


def attend_causally(q_THD: Tensor, run: Run, kv_heads: int, scale: float, out_THD: Tensor) -> None:
    """The last T rows of a run over all rows up to their own, into ``out`` (contiguous)."""
    rows, heads, dim = q_THD.shape
    query, apart = heads_together(q_THD)
    library().dyvte_attend_causally(
        query.data_ptr(),
        apart,
        rows,
        in_memory([run]),
        kv_heads,
        heads // kv_heads,
        dim,
        scale,
        out_THD.data_ptr(),
        torch.get_num_threads(),
    )


def append_single(k_SGD: Tensor, v_SGD: Tensor, runs: Sequence[Run]) -> None:
    """Write each sequence's newest key and value as the last row of its run."""
    sequences, heads, dim = k_SGD.shape
    (keys, keys_apart), (values, values_apart) = map(heads_together, (k_SGD, v_SGD))
    library().dyvte_append_single(
        keys.itemsize,
        keys.data_ptr(),
        keys_apart,
        values.data_ptr(),
        values_apart,
        in_memory(runs),
        sequences,
        heads,
        dim,
    )


def attend_single(q_SHD: Tensor, runs: Sequence[Run], kv_heads: int, scale: float) -> Tensor:
    """One query row of each sequence over all rows of its run: ``[S, H, D]``."""
    sequences, heads, dim = q_SHD.shape
    out = q_SHD.new_empty(sequences, heads, dim)
    query, apart = heads_together(q_SHD)
    library().dyvte_attend_single(
        FORMS[query.dtype],
        query.data_ptr(),
        apart,
        in_memory(runs),
        sequences,
        kv_heads,
        heads // kv_heads,
        dim,
        scale,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def room(out: Tensor | None, x: Tensor, rows: int, width: int, apart: bool = False) -> Tensor:
    """``out`` where it is given, else new memory. Its rows may lie ``apart``, else follow on."""
    if out is None:
        return x.new_empty(rows, width)
    assert out.shape == (rows, width), "a result has its rows and its numbers"
    assert out.dtype == x.dtype, "a result has the type of its rows"
    whole = out.stride(1) == 1 if apart else out.is_contiguous()
    assert whole, "kernels write one row behind the other"
    return out


def numbers_together(x_TK: Tensor) -> tuple[Tensor, int, int]:
    """With the numbers of a row side by side, a copy where they are not; rows, and from row to row.

    Each question to a tensor costs as much as a hundred numbers: strides are asked for once.
    """
    apart, between = x_TK.stride()
    if between == 1:
        return x_TK, x_TK.shape[0], apart
    rows, width = x_TK.shape
    return x_TK.contiguous(), rows, width


def heads_together(x_THD: Tensor) -> tuple[Tensor, int]:
    """With a row's heads one behind the other, a copy where they are not; from row to row."""
    (apart, head, between), (_, heads, dim) = x_THD.stride(), x_THD.shape
    if between == 1 and head == dim:
        return x_THD, apart
    return x_THD.contiguous(), heads * dim


def in_memory(runs: Sequence[Run]) -> bytes:
    """As C has an array of them: ``bytes`` are made at once, a ctypes array number by number."""
    return struct.pack(f"{4 * len(runs)}q", *chain.from_iterable(runs))
