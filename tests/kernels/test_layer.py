"""A decoder layer in one call has the bits of the calls that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dyvte.kernels import ops
from dyvte.kernels.layer import DecodeLayer, LayerWeights, Linear, Norm
from tests.kernels.test_ops import drawn, same_bits, weights

pytestmark = pytest.mark.usefixtures("kernels")


@dataclass(frozen=True)
class Shape:
    width: int = 96
    heads: int = 4
    kv_heads: int = 2
    dim: int = 32
    units: int = 160

    @property
    def outputs(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.dim


def linear(outputs: int, inputs: int, seed: int, bias: bool, dtype: torch.dtype) -> Linear:
    panels = ops.lay_out(weights(outputs, inputs, dtype, seed))
    return panels, drawn(outputs, seed=seed + 50) if bias else None


def layer(shape: Shape, head_norms: bool, bias: bool, dtype: torch.dtype) -> LayerWeights:
    def norm(size: int, seed: int) -> Norm:
        return drawn(size, seed=seed), 1e-5

    queries = shape.heads * shape.dim
    return LayerWeights(
        before_attention=norm(shape.width, 1),
        of_queries=norm(shape.dim, 2) if head_norms else None,
        of_keys=norm(shape.dim, 3) if head_norms else None,
        before_mlp=norm(shape.width, 4),
        query_key_value=linear(shape.outputs, shape.width, 5, bias, dtype),
        attended=linear(shape.width, queries, 6, bias, torch.float32),
        gate=linear(shape.units, shape.width, 7, bias, dtype),
        up=linear(shape.units, shape.width, 8, bias, dtype),
        down=linear(shape.width, shape.units, 9, bias, dtype),
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        dim=shape.dim,
        scale=shape.dim**-0.5,
    )


def caches(shape: Shape, lengths: list[int]) -> tuple[list[Tensor], list[ops.Run]]:
    """A run for each sequence whose last row is still to be written."""
    held = [drawn(2, shape.kv_heads, rows + 3, shape.dim, seed=rows) for rows in lengths]
    runs = []
    for rows, run in zip(lengths, held, strict=True):
        between, head, _, _ = run.stride()
        runs.append((run.data_ptr(), run.data_ptr() + between * run.itemsize, head, rows))
    return held, runs


def one_by_one(w: LayerWeights, hidden: Tensor, angles: Tensor, runs: list[ops.Run]) -> Tensor:
    def normed(rows: Tensor, norm: Norm) -> Tensor:
        assert norm is not None
        return ops.rms_norm(rows, *norm)

    cos, sin = angles
    product = ops.linear(normed(hidden, w.before_attention), *w.query_key_value)
    sizes = [each * w.dim for each in (w.heads, w.kv_heads, w.kv_heads)]
    query, key, value = (x.unflatten(1, (-1, w.dim)) for x in product.split(sizes, dim=1))
    for rows, norm in ((query, w.of_queries), (key, w.of_keys)):
        ops.turn_heads(rows, cos, sin, *(norm or (None, 0.0)))
    ops.append_single(key, value, runs)
    attended = ops.attend_single(query, runs, w.kv_heads, w.scale).flatten(1)
    between = ops.linear(attended, *w.attended, residual=hidden)
    rows = normed(between, w.before_mlp)
    units = ops.silu_mul(ops.linear(rows, *w.gate), ops.linear(rows, *w.up))
    return ops.linear(units, *w.down, residual=between)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("head_norms", "bias"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("lengths", [[1], [70], [5, 300, 1, 64], [9] * 17])
def test_a_layer_has_the_bits_of_its_parts(
    lengths: list[int], head_norms: bool, bias: bool, dtype: torch.dtype
) -> None:
    shape = Shape()
    w = layer(shape, head_norms, bias, dtype)
    hidden = drawn(len(lengths), shape.width, seed=11)
    angles = drawn(2, len(lengths), shape.dim, seed=12)
    (held, runs), (other, there) = (caches(shape, lengths) for _ in range(2))
    found = DecodeLayer(w)(hidden, angles[0], angles[1], runs)
    assert same_bits(found, one_by_one(w, hidden, angles, there))
    assert all(map(same_bits, held, other))


def test_the_number_of_rows_may_change_from_step_to_step() -> None:
    """The memory between the parts is the thread's, and grows."""
    shape = Shape()
    w = layer(shape, False, False, torch.bfloat16)
    made = DecodeLayer(replace(w, scale=0.3))
    for count in (1, 40, 2):
        hidden, angles = drawn(count, shape.width), drawn(2, count, shape.dim)
        (_held, runs), (_other, there) = (caches(shape, [7] * count) for _ in range(2))
        expected = one_by_one(replace(w, scale=0.3), hidden, angles, there)
        assert same_bits(made(hidden, angles[0], angles[1], runs), expected)
