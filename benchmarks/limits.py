"""The most that this machine does just now: bytes a second read, FLOPs a second multiplied.

Memory is read by a sum, and by our own product of one row over as many bytes of weights in 16 bit.
Products are the decoder's own at as many rows as a prompt has, by torch and by our kernels where
there are some. What is fastest counts: a floor made of it is the hardest to reach.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.flops import DecoderShape
from dyvte.kernels import ops
from dyvte.kernels.ops import Panels

Clock = Callable[[], float]
TORCH, OURS = "torch", "ours"
TIMES = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and FLOPs a second, by whose code reached them."""

    reads: dict[str, float]
    products: dict[str, float]

    @property
    def bandwidth(self) -> float:
        """The most bytes a second."""
        return max(self.reads.values())

    @property
    def rate(self) -> float:
        """The most FLOPs a second."""
        return max(self.products.values())


@dataclass(frozen=True, slots=True)
class Product:
    """``x [T, K]`` times weights ``[N, K]``, which our kernels have in panels."""

    x_TK: Tensor
    weight_NK: Tensor
    panels: Panels | None

    @property
    def flops(self) -> int:
        """2 a multiply-add."""
        return 2 * self.x_TK.shape[0] * self.weight_NK.numel()


@dataclass
class Probe:
    """What is read and multiplied, made once: ``size`` bytes, products of ``rows`` rows.

    ``clock`` counts the seconds.
    """

    shape: DecoderShape
    dtype: torch.dtype
    size: int
    rows: int
    clock: Clock = time.perf_counter
    products: list[Product] = field(init=False)

    def __post_init__(self) -> None:
        self.block = torch.ones(self.size // 4)
        width = self.shape.hidden_size
        self.row, self.weights = torch.randn(1, width), None
        if self.in_panels:
            outputs = max(1, self.size // 2 // width)
            self.weights = ops.lay_out(torch.randn(outputs, width).bfloat16().float())
        self.products = [self._product(*sizes) for sizes in shapes(self.shape)]

    @property
    def in_panels(self) -> bool:
        """True if our kernels multiply for this type."""
        return self.dtype == torch.float32 and ops.available()

    def measure(self) -> Limits:
        """The best of some tries, in some tenths of a second."""
        reads = {TORCH: self.block.nbytes / fastest(self.block.sum, self.clock)}
        products = {TORCH: self._best(lambda each: F.linear(each.x_TK, each.weight_NK))}
        weights = self.weights
        if weights is not None:
            read = partial(ops.linear, self.row, weights)
            reads[OURS] = weights.data.nbytes / fastest(read, self.clock)
            products[OURS] = self._best(_in_panels)
        return Limits(reads, products)

    def _product(self, outputs: int, inputs: int) -> Product:
        weight = torch.randn(outputs, inputs).bfloat16()
        x = torch.randn(self.rows, inputs).to(self.dtype)
        panels = ops.lay_out(weight.float()) if self.in_panels else None
        return Product(x, weight.to(self.dtype), panels)

    def _best(self, multiply: Callable[[Product], object]) -> float:
        """FLOPs a second of the product that is the fastest."""
        times = [fastest(partial(multiply, each), self.clock) for each in self.products]
        return max(each.flops / took for each, took in zip(self.products, times, strict=True))


def _in_panels(product: Product) -> Tensor:
    assert product.panels is not None, "asked whether there are panels"
    return ops.linear(product.x_TK, product.panels)


def shapes(shape: DecoderShape) -> list[tuple[int, int]]:
    """``(N, K)`` of a layer's products: queries, keys and values as one; gate and up as one."""
    d, m = shape.hidden_size, shape.intermediate_size
    return [(shape.q_dim + 2 * shape.kv_dim, d), (d, shape.q_dim), (2 * m, d), (d, m)]


def fastest(work: Callable[[], object], clock: Clock) -> float:
    """Seconds of the fastest of some calls."""
    laps = []
    for _ in range(TIMES):
        began = clock()
        work()
        laps.append(clock() - began)
    return min(laps)
