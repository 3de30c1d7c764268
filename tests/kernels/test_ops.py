"""The kernels against ``torch`` in double precision, and a row's bits in any company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dyvte.kernels import ops
from dyvte.kernels.ops import Run

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = ((64, 96), (130, 100), (7, 5), (1, 1), (33, 1408), (40, 1409), (70, 3000))
ROWS = (1, 2, 3, 13, 14, 15, 29, 154, 155, 400)  # around a tile of 14 and a block of 11 tiles
NAN, INF = math.nan, math.inf


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    numbers: Tensor = torch.randn(shape, generator=draw).to(dtype).float()
    return numbers


def weights(outputs: int, inputs: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    """float32 numbers that ``dtype`` can hold."""
    return (drawn(outputs, inputs, seed=seed) / math.sqrt(inputs)).to(dtype).float()


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_come_back_bit_by_bit_from_the_smallest_type_that_holds_them(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = weights(*shape, dtype)
    # A third, and twice the smallest of float16, keep each from fitting the type before its own.
    weight[0, 0] = {torch.bfloat16: 0.5, torch.float16: 2.0**-23 * 3, torch.float32: 1 / 3}[dtype]
    weight[0, -1] = -0.0 if shape[1] > 1 else weight[0, 0]
    if dtype == torch.float16:
        weight[-1, 0] = 1 + 2.0**-10
    panels = ops.lay_out(weight)
    assert panels.dtype == dtype
    assert panels.data.itemsize == dtype.itemsize
    assert panels.data.shape == (-(-shape[0] // ops.panel()), shape[1], ops.panel())
    assert same_bits(ops.dense(panels), weight)


def test_weights_that_are_no_numbers_stay_float32() -> None:
    weight = torch.tensor([[NAN, INF], [-INF, 0.5]])
    panels = ops.lay_out(weight)
    assert panels.dtype == torch.float32
    torch.testing.assert_close(ops.dense(panels), weight, rtol=0, atol=0, equal_nan=True)
    assert ops.lay_out(weight[1:]).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_that_of_double_precision(shape: tuple[int, int], dtype: torch.dtype) -> None:
    outputs, inputs = shape
    weight, bias = weights(outputs, inputs, dtype), drawn(outputs, seed=2)
    panels = ops.lay_out(weight)
    for rows in ROWS:
        x, residual = drawn(rows, inputs, seed=rows), drawn(rows, outputs, seed=rows + 1)
        product = F.linear(x.double(), weight.double())
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            expected = product + (0 if b is None else b) + (0 if r is None else r)
            found = ops.linear(x, panels, b, r)
            assert found.shape == (rows, outputs)
            torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (70, 1500)])
def test_a_gated_product_has_the_bits_of_its_parts(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    outputs, inputs = shape
    gate, up = (ops.lay_out(weights(outputs, inputs, dtype, seed)) for seed in (1, 2))
    biases = drawn(outputs, seed=3), drawn(outputs, seed=4)
    for rows in ROWS:
        x = drawn(rows, inputs, seed=rows)
        for b, c in ((None, None), biases, (None, biases[1])):
            parts = ops.silu_mul(ops.linear(x, gate, b), ops.linear(x, up, c))
            assert same_bits(ops.gated_linear(x, gate, up, b, c), parts)


def test_a_product_over_rows_that_lie_apart_or_crosswise_is_the_same() -> None:
    wide, panels = drawn(20, 3, 96), ops.lay_out(weights(40, 96, torch.bfloat16))
    apart = wide[:, 1]
    assert not apart.is_contiguous()
    expected = ops.linear(apart.clone(), panels)
    assert same_bits(ops.linear(apart, panels), expected)
    crosswise = apart.t().contiguous().t()
    assert crosswise.stride(-1) != 1
    assert same_bits(ops.linear(crosswise, panels), expected)
    assert same_bits(ops.linear(apart[::2], panels), expected[::2])
    assert same_bits(ops.linear(apart[3:4].expand(5, -1), panels), expected[3:4].expand(5, -1))


def test_results_lie_where_they_are_asked_to() -> None:
    """In some rows of a larger tensor, whose other rows stay as they are."""
    rows, panels = drawn(20, 64), ops.lay_out(weights(64, 64, torch.bfloat16))
    scale, other, bias = drawn(64, seed=2), drawn(20, 64, seed=3), drawn(64, seed=4)
    for made, into in (
        (ops.linear(rows, panels, bias, other), partial(ops.linear, rows, panels, bias, other)),
        (ops.rms_norm(rows, scale, 1e-6), partial(ops.rms_norm, rows, scale, 1e-6)),
        (ops.silu_mul(rows, other), partial(ops.silu_mul, rows, other)),
        (
            ops.gated_linear(rows, panels, panels, bias),
            partial(ops.gated_linear, rows, panels, panels, bias),
        ),
    ):
        there = torch.full((30, 64), 7.0)
        assert into(out=there[4:24]).data_ptr() == there[4].data_ptr()
        assert same_bits(there[4:24], made)
        assert torch.equal(there[:4], torch.full((4, 64), 7.0))
        assert torch.equal(there[24:], torch.full((6, 64), 7.0))


def test_no_rows_make_no_rows() -> None:
    assert ops.linear(torch.empty(0, 96), ops.lay_out(weights(40, 96, torch.float32))).shape == (
        0,
        40,
    )
    assert ops.rms_norm(torch.empty(0, 96), torch.ones(96), 1e-6).shape == (0, 96)
    assert ops.silu_mul(*torch.empty(2, 0, 48)).shape == (0, 48)


LONG = 1500  # more inputs than are summed in one go


@settings(max_examples=25)
@given(
    rows=st.integers(1, 400),
    start=st.integers(0, 399),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 5),
)
def test_a_row_of_a_product_has_the_same_bits_in_any_company(
    rows: int, start: int, dtype: torch.dtype, seed: int
) -> None:
    x, residual = drawn(400, LONG, seed=seed), drawn(400, 45, seed=seed + 1)
    panels, bias = ops.lay_out(weights(45, LONG, dtype, seed)), drawn(45)
    whole = ops.linear(x, panels, bias, residual)
    part = slice(min(start, 400 - rows), min(start, 400 - rows) + rows)
    assert same_bits(ops.linear(x[part], panels, bias, residual[part]), whole[part])


def test_threads_do_not_change_a_bit() -> None:
    x, panels = drawn(155, 512), ops.lay_out(weights(200, 512, torch.bfloat16))
    runs = Runs([65, 700], 4, 64)
    query = drawn(2, 8, 64)
    before = torch.get_num_threads()
    found: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([ops.linear(x, panels), ops.attend_single(query, runs.given, 4, 0.125)])
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_in_its_row(dtype: torch.dtype) -> None:
    weight = weights(40, 96, dtype)
    panels, x = ops.lay_out(weight), drawn(17, 96)
    clean = ops.linear(x, panels)
    x[3, 7], x[9, 95], x[12, 0] = NAN, INF, -INF
    found, expected = ops.linear(x, panels), F.linear(x, weight)
    for bad in (3, 9, 12):
        torch.testing.assert_close(found[bad], expected[bad], equal_nan=True)
    assert found[3].isnan().all()
    assert found[9].isinf().all()
    fine = [row for row in range(17) if row not in (3, 9, 12)]
    assert same_bits(found[fine], clean[fine])


@pytest.mark.parametrize("width", [1, 5, 8, 64, 100, 1024])
def test_a_norm_is_that_of_double_precision(width: int) -> None:
    x, weight = drawn(9, 2, width)[:, 1] * 3, drawn(width, seed=4)
    expected = F.rms_norm(x.double(), (width,), weight.double(), 1e-6)
    found = ops.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=2e-6)
    for row in range(9):
        assert same_bits(ops.rms_norm(x[row : row + 1], weight, 1e-6), found[row : row + 1])


def test_a_norm_of_what_is_no_number_is_torch_s() -> None:
    x = drawn(5, 40)
    x[1, 3], x[2, 39], x[3] = NAN, INF, 0
    expected = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
    torch.testing.assert_close(ops.rms_norm(x, torch.ones(40), 1e-6), expected, equal_nan=True)


def turned(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """The rotary embedding as ``transformers`` writes it."""
    first, second = x_THD.chunk(2, dim=-1)
    return x_THD * cos_TD[:, None] + torch.cat((-second, first), -1) * sin_TD[:, None]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dim", [2, 8, 24, 64, 80, 128])
def test_heads_are_turned_in_place_and_what_lies_beside_them_is_left(dim: int, norm: bool) -> None:
    joined, cos, sin = drawn(7, 9, dim), drawn(7, dim, seed=1), drawn(7, dim, seed=2)
    weight = drawn(dim, seed=3) if norm else None
    before = joined.clone()
    heads = joined[:, 2:6]
    ops.turn_heads(heads, cos, sin, weight, 1e-5)
    x = before[:, 2:6].double()
    if weight is not None:
        x = F.rms_norm(x, (dim,), weight.double(), 1e-5)
    expected = turned(x, cos.double(), sin.double())
    torch.testing.assert_close(heads.double(), expected, atol=3e-6, rtol=2e-6)
    assert same_bits(joined[:, :2], before[:, :2])
    assert same_bits(joined[:, 6:], before[:, 6:])


EDGES = (0.0, -0.0, 1e-30, 20, -20, 86.9, 87, 87.1, -86.9, -87, -87.1, -88.3, -88.4, -88.8, -89.1)
HUGE = (-100.0, -1e4, -1e30, -3e38, 1e4, 3e38, INF, -INF, NAN)


@pytest.mark.parametrize("width", [1, 16, 24, 35])
def test_silu_is_torch_s_from_one_end_to_the_other(width: int) -> None:
    gate = torch.tensor([*EDGES, *HUGE]).repeat_interleave(width).view(-1, width)
    up = drawn(*gate.shape)
    found = ops.silu_mul(gate, up)
    expected = (F.silu(gate.double()) * up).float()  # -inf: inf / inf, which is no number
    torch.testing.assert_close(found, expected, atol=1e-34, rtol=2e-6, equal_nan=True)


def test_silu_of_many_is_that_of_double_precision() -> None:
    x = torch.linspace(-95, 95, 20 * 2 * 101).view(20, -1)[:, torch.randperm(202)]
    gate, up = x[:, :101].double(), x[:, 101:].double()
    expected = F.silu(gate) * up
    found = ops.silu_mul(x[:, :101], x[:, 101:]).double()
    torch.testing.assert_close(found, expected, atol=1e-30, rtol=2e-6)


class Runs:
    """Keys and values of sequences ``[2, G, rows + spare, D]``, and where they lie."""

    def __init__(self, lengths: Sequence[int], kv_heads: int, dim: int, seed: int = 0) -> None:
        self.lengths = lengths
        self.held = [drawn(2, kv_heads, n + 9, dim, seed=seed + n) for n in lengths]
        for each, length in zip(self.held, lengths, strict=True):
            each[:, :, length:] = NAN  # nothing behind the rows is read

    @property
    def given(self) -> list[Run]:
        pairs = zip(self.held, self.lengths, strict=True)
        return [(h[0].data_ptr(), h[1].data_ptr(), h.stride(1), n) for h, n in pairs]

    def attended(self, index: int, query_THD: Tensor, scale: float) -> Tensor:
        """By definition, in double: the last T rows over what each may see."""
        rows, heads, _ = query_THD.shape
        length = self.lengths[index]
        keys, values = self.held[index][:, :, :length].double()
        group = heads // len(keys)
        keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
        scores = query_THD.double().transpose(0, 1) @ keys.transpose(1, 2) * scale
        hidden = torch.ones(rows, length).tril(length - rows) == 0
        found: Tensor = scores.masked_fill(hidden, -INF).softmax(-1) @ values
        return found.transpose(0, 1)


LENGTHS = (1, 2, 63, 64, 65, 700)


@pytest.mark.parametrize("dim", [2, 8, 24, 64, 80, 128])
@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (6, 1), (64, 1)])
def test_single_rows_attend_as_in_double_precision(heads: tuple[int, int], dim: int) -> None:
    count, kv_heads = heads
    runs, scale = Runs(LENGTHS, kv_heads, dim), dim**-0.5
    joined = drawn(len(LENGTHS), count + 3, dim, seed=8)
    query = joined[:, :count]  # as they come out of the product with keys and values behind them
    found = ops.attend_single(query, runs.given, kv_heads, scale)
    for i, length in enumerate(LENGTHS):
        expected = runs.attended(i, query[i : i + 1], scale)[0]
        torch.testing.assert_close(
            found[i].double(), expected, atol=2e-6, rtol=1e-5, msg=str(length)
        )


def test_queries_that_lie_crosswise_attend_to_the_same_bits() -> None:
    runs, crosswise = Runs([65, 30], 2, 24), drawn(4, 2, 24).transpose(0, 1)
    straight = crosswise.contiguous()
    found = ops.attend_single(crosswise, runs.given, 2, 0.2)
    assert same_bits(found, ops.attend_single(straight, runs.given, 2, 0.2))
    outs = torch.empty(2, 2, 4, 24)
    ops.attend_causally(crosswise, runs.given[0], 2, 0.2, outs[0])
    ops.attend_causally(straight, runs.given[0], 2, 0.2, outs[1])
    assert same_bits(outs[0], outs[1])


def test_the_newest_keys_and_values_become_the_last_rows_and_nothing_else_changes() -> None:
    runs, joined = Runs([1, 65, 7], 2, 10), drawn(3, 6, 10)
    expected = [each.clone() for each in runs.held]
    keys, values = joined[:, 2:4], joined[:, 4:].transpose(1, 2).contiguous().transpose(1, 2)
    ops.append_single(keys, values, runs.given)
    for index, (each, length) in enumerate(zip(expected, runs.lengths, strict=True)):
        each[0, :, length - 1], each[1, :, length - 1] = keys[index], values[index]
        assert same_bits(runs.held[index], each)


@settings(max_examples=20)
@given(chosen=st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=9))
def test_a_single_row_attends_to_the_same_bits_beside_any_others(chosen: list[int]) -> None:
    runs, query = Runs(LENGTHS, 2, 80), drawn(len(LENGTHS), 8, 80)
    alone = [
        ops.attend_single(query[i : i + 1], [runs.given[i]], 2, 0.1) for i in range(len(LENGTHS))
    ]
    found = ops.attend_single(query[chosen], [runs.given[i] for i in chosen], 2, 0.1)
    assert same_bits(found, torch.cat([alone[i] for i in chosen]))


@pytest.mark.parametrize(
    ("length", "rows"), [(2, 2), (33, 33), (64, 31), (65, 65), (300, 2), (300, 300), (700, 100)]
)
@pytest.mark.parametrize(("heads", "dim"), [((4, 4), 64), ((8, 2), 80), ((3, 1), 8), ((2, 1), 128)])
def test_many_rows_attend_as_in_double_precision(
    length: int, rows: int, heads: tuple[int, int], dim: int
) -> None:
    count, kv_heads = heads
    runs, joined = Runs([length], kv_heads, dim), drawn(rows, count + 3, dim, seed=3)
    query, out = joined[:, :count], torch.full((rows, count, dim), NAN)
    ops.attend_causally(query, runs.given[0], kv_heads, dim**-0.5, out)
    expected = runs.attended(0, query, dim**-0.5)
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-5)


def causally(runs: Runs, query: Tensor, start: int, stop: int) -> Tensor:
    """Rows from ``start`` to ``stop`` of a prompt, when there were no later ones."""
    keys, values, stride, _ = runs.given[0]
    out = torch.empty(stop - start, *query.shape[1:])
    ops.attend_causally(query[start:stop], (keys, values, stride, stop), 2, 0.1, out)
    return out


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 299), max_size=5))
def test_a_row_attends_to_the_same_bits_however_its_prompt_is_cut(cuts: set[int]) -> None:
    runs, query = Runs([300], 2, 24), drawn(300, 4, 24)
    edges = [0, *sorted(cuts), 300]
    pieces = [causally(runs, query, *pair) for pair in pairwise(edges)]
    assert same_bits(torch.cat(pieces), causally(runs, query, 0, 300))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_scores_far_apart_attend_to_one_key_alone(scale: float) -> None:
    runs, query = Runs([130], 1, 16), drawn(1, 1, 16) * 30
    query *= scale
    expected = runs.attended(0, query, 1.0)
    out = torch.empty(1, 1, 16)
    ops.attend_causally(query, runs.given[0], 1, 1.0, out)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)
    single = ops.attend_single(query, runs.given, 1, 1.0)
    torch.testing.assert_close(single.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", [0, 70, 129])
@pytest.mark.parametrize("what", ["key", "value", "query"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_attention_over_what_is_no_number_is_no_number(what: str, place: int, bad: float) -> None:
    """What a broken row wrote must not be read over in silence by the rows behind it."""
    runs, query = Runs([130], 2, 16), drawn(2, 4, 16)
    if what == "query":
        query[1, 0, 3] = bad
    else:
        runs.held[0][int(what == "value"), 0, place, 3] = bad
    expected = runs.attended(0, query, 0.25)[1]
    assert not expected.isfinite().all()
    out = torch.empty(2, 4, 16)
    ops.attend_causally(query, runs.given[0], 2, 0.25, out)
    single = ops.attend_single(query[1:], runs.given, 2, 0.25)[0]
    for found in (out[1], single):
        assert torch.equal(found.isfinite(), expected.isfinite())
