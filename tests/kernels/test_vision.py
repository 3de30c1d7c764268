"""What only vision towers need of the kernels, against ``torch`` in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dyvte.kernels import ops, vision
from tests.kernels.test_ops import DTYPES, EDGES, HUGE, ROWS, drawn, same_bits, weights

pytestmark = pytest.mark.usefixtures("kernels")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def activated(x: Tensor, activation: str, width: int) -> Tensor:
    """The activation of every number, ``width`` times: a product with ones changes none."""
    return ops.activated_linear(x[:, None], ops.lay_out(torch.ones(width, 1)), None, activation)


@pytest.mark.parametrize("width", [1, 16, 24, 35, 100])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_torch_s_from_one_end_to_the_other(name: str, width: int) -> None:
    x = torch.tensor([*EDGES, *HUGE])
    found = activated(x, name, width)
    expected = ACTIVATIONS[name](x.double()).float()[:, None].expand(-1, width)
    torch.testing.assert_close(found, expected, atol=1e-30, rtol=2e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("quick_gelu", lambda x: x / (1 + torch.exp(-1.702 * x))),
        ("gelu", lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2),
        ("gelu_tanh", lambda x: x / (1 + torch.exp(-2 * math.sqrt(2 / math.pi) * _cubic(x)))),
    ],
)
def test_small_results_of_activations_keep_their_digits(
    name: str, exact: Callable[[Tensor], Tensor]
) -> None:
    """Where torch's own, one plus what is nearly minus one, has lost them. An exponent of 16 is
    rounded by as much as its last bit says, so that far out a few more are lost."""
    x = torch.linspace(-5.5, 9, 40001)
    torch.testing.assert_close(
        activated(x, name, 1)[:, 0].double(), exact(x.double()), atol=1e-12, rtol=4e-6
    )
    near = x[x > -2]
    torch.testing.assert_close(
        activated(near, name, 1)[:, 0].double(), exact(near.double()), atol=1e-12, rtol=1e-6
    )


def _cubic(x: Tensor) -> Tensor:
    return x + 0.044715 * x**3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 96), (130, 100), (7, 5), (40, 1409)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activated_product_is_the_activation_of_the_product(
    name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    panels, bias = ops.lay_out(weights(*shape, dtype)), drawn(shape[0], seed=2)
    for rows in ROWS:
        x = drawn(rows, shape[1], seed=rows)
        for b in (None, bias):
            product = ops.linear(x, panels, b)
            found = ops.activated_linear(x, panels, b, name)
            expected = ACTIVATIONS[name](product.double())
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
            assert same_bits(ops.activated_linear(x, panels, b, ""), product)


@settings(max_examples=20)
@given(rows=st.integers(1, 400), start=st.integers(0, 399), name=st.sampled_from([*ACTIVATIONS]))
def test_an_activated_row_has_the_same_bits_in_any_company(
    rows: int, start: int, name: str
) -> None:
    x, panels = drawn(400, 1500), ops.lay_out(weights(45, 1500, torch.bfloat16))
    part = slice(min(start, 400 - rows), min(start, 400 - rows) + rows)
    whole = ops.activated_linear(x, panels, None, name)
    assert same_bits(ops.activated_linear(x[part], panels, None, name), whole[part])


def test_products_may_lie_apart_and_leave_what_is_between() -> None:
    rows, panels = drawn(20, 64), ops.lay_out(weights(64, 64, torch.bfloat16))
    there = torch.full((20, 80), 7.0)
    ops.linear(rows, panels, out=there[:, :64])
    assert same_bits(there[:, :64], ops.linear(rows, panels))
    assert torch.equal(there[:, 64:], torch.full((20, 16), 7.0))


@pytest.mark.parametrize("width", [1, 5, 8, 64, 100, 1024])
def test_a_centred_norm_is_that_of_double_precision(width: int) -> None:
    x = drawn(9, 2, width)[:, 1] * 3 + 50
    weight, bias = drawn(width, seed=4), drawn(width, seed=5)
    expected = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    found = vision.layer_norm(x, weight, bias, 1e-5)
    # What is left of 50 after the mean is gone has five digits.
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=1e-5)
    for row in range(9):
        assert same_bits(
            vision.layer_norm(x[row : row + 1], weight, bias, 1e-5), found[row : row + 1]
        )


def test_a_centred_norm_of_what_is_no_number_is_torch_s() -> None:
    x, weight, bias = drawn(6, 40), torch.ones(40), torch.zeros(40)
    x[1, 3], x[2, 39], x[3] = math.nan, math.inf, 0
    expected = F.layer_norm(x, (40,), weight, bias, 1e-6)
    found = vision.layer_norm(x, weight, bias, 1e-6)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert vision.layer_norm(x[:0], weight, bias, 1e-6).shape == (0, 40)


def qkv(images: int, rows: int, heads: int, dim: int) -> tuple[Tensor, ...]:
    """As they come out of one product, and a few numbers behind them."""
    joined = drawn(images * rows, 3 * heads * dim + 3)
    return tuple(
        each.unflatten(1, (heads, dim)) for each in joined[:, :-3].split(heads * dim, dim=1)
    )


@pytest.mark.parametrize("dim", [2, 8, 24, 64, 72, 128])
@pytest.mark.parametrize(
    ("images", "rows"), [(1, 1), (3, 2), (2, 31), (1, 33), (2, 64), (1, 65), (2, 257)]
)
def test_a_row_attends_to_all_rows_of_its_own_picture(images: int, rows: int, dim: int) -> None:
    given = qkv(images, rows, 3, dim)
    found = vision.attend_pictures(given, images, dim**-0.5)
    query, keys, values = (
        each.double().unflatten(0, (images, rows)).transpose(1, 2) for each in given
    )
    expected = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found.double(), expected.flatten(0, 1), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [5, 32, 100])
def test_a_picture_attends_to_the_same_bits_beside_others_and_however_its_rows_lie(
    rows: int,
) -> None:
    given = qkv(4, rows, 2, 24)
    together = vision.attend_pictures(given, 4, 0.2).split(rows)
    for index, expected in enumerate(together):
        own = [each[index * rows : (index + 1) * rows] for each in given]
        assert same_bits(vision.attend_pictures(own, 1, 0.2), expected)
        close = [each.contiguous() for each in own]
        assert same_bits(vision.attend_pictures(close, 1, 0.2), expected)
        mixed = (close[0], own[1], close[2])
        assert same_bits(vision.attend_pictures(mixed, 1, 0.2), expected)


@pytest.mark.parametrize("what", ["query", "key", "value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_stays_in_its_picture(what: str, bad: float) -> None:
    given = qkv(3, 70, 2, 16)
    clean = vision.attend_pictures(given, 3, 0.25)
    place = {"query": 0, "key": 1, "value": 2}[what]
    given[place][75, 0, 3] = bad
    found = vision.attend_pictures(given, 3, 0.25)
    assert not found[70:140, :16].isfinite().all()
    others = [*range(70), *range(140, 210)]
    assert same_bits(found[others], clean[others])
    assert same_bits(found[70:140, 16:], clean[70:140, 16:])


def test_threads_do_not_change_a_bit_of_a_picture() -> None:
    given, panels = qkv(2, 100, 4, 64), ops.lay_out(weights(200, 256, torch.bfloat16))
    x, norm = drawn(200, 256), (drawn(256, seed=3), drawn(256, seed=4))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = vision.layer_norm(x, *norm, 1e-5)
            parts = (made, ops.activated_linear(made, panels, None, "gelu"))
            found.append([*parts, vision.attend_pictures(given, 2, 0.125)])
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
