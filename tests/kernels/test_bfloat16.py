"""Rows in bfloat16 against the same kernels in float32, which are held to double precision."""

from __future__ import annotations

import pytest
import torch

from dyvte.kernels import ops
from tests.kernels.test_ops import INF, LENGTHS, NAN, Runs, drawn

pytestmark = pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
BF16 = torch.bfloat16


@pytest.mark.parametrize("width", [5, 64, 100])
def test_bfloat16_rows_are_computed_in_float32_and_rounded_once(width: int) -> None:
    x, other = drawn(9, width).to(BF16), drawn(9, width, seed=1).to(BF16)
    weight = drawn(width, seed=2).to(BF16)
    normed = ops.rms_norm(x.float(), weight.float(), 1e-6)
    assert torch.equal(ops.rms_norm(x, weight, 1e-6), normed.to(BF16))
    units = ops.silu_mul(x.float(), other.float())
    assert torch.equal(ops.silu_mul(x, other), units.to(BF16))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dim", [8, 24, 64])
def test_bfloat16_heads_are_turned_as_in_float32(dim: int, norm: bool) -> None:
    heads, cos, sin = (drawn(*s, dim, seed=i).to(BF16) for i, s in enumerate([(7, 4), (7,), (7,)]))
    weight = drawn(dim, seed=3).to(BF16) if norm else None
    expected = heads.float()
    ops.turn_heads(
        expected, cos.float(), sin.float(), None if weight is None else weight.float(), 1e-5
    )
    ops.turn_heads(heads, cos, sin, weight, 1e-5)
    close = 0.03 if norm else 0.0  # the norm of a head is rounded before it is turned
    torch.testing.assert_close(heads, expected.to(BF16), atol=close, rtol=close)


@pytest.mark.parametrize("dim", [8, 24, 64, 80])
def test_single_bfloat16_rows_attend_as_in_float32(dim: int) -> None:
    runs, query = Runs(LENGTHS, 2, dim), drawn(len(LENGTHS), 6, dim, seed=8).to(BF16)
    narrow = [each.to(BF16) for each in runs.held]
    runs.held[:] = [each.float() for each in narrow]
    given = [
        (h[0].data_ptr(), h[1].data_ptr(), h.stride(1), n)
        for h, n in zip(narrow, runs.lengths, strict=True)
    ]
    expected = ops.attend_single(query.float(), runs.given, 2, 0.2)
    assert torch.equal(ops.attend_single(query, given, 2, 0.2), expected.to(BF16))
    newest = drawn(len(LENGTHS), 2, dim, seed=9).to(BF16)
    ops.append_single(newest, -newest, given)
    for each, length, row in zip(narrow, runs.lengths, newest, strict=True):
        assert torch.equal(each[:, :, length - 1], torch.stack((row, -row)))


def test_what_is_no_number_stays_none_in_bfloat16() -> None:
    gate = torch.tensor([[NAN, INF, 3e38, 1.0]], dtype=BF16)
    up = torch.tensor([[1.0, 1.0, 3e38, NAN]], dtype=BF16)
    found = ops.silu_mul(gate, up)
    assert found.isnan().tolist() == [[True, False, False, True]]
    assert found.isinf().tolist() == [[False, True, True, False]]
