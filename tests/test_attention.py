"""Every attention backend against the dense one, on the ragged batches that an engine makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dyvte.attention import (
    AttentionBackend,
    DenseAttention,
    RunAttention,
    SdpaAttention,
    causal_mask,
    choose_backend,
)
from dyvte.kernels import ops
from dyvte.kv_cache import KVCache, PagedCache, RunCache
from dyvte.packing import PackedBatch, Segment
from dyvte.pages import PageLedger
from dyvte.varlen import GatheredVarlenAttention, VarlenAttention
from tests.paged_kernel import paged_kernel, unpaged_kernel

DIM, PAGE = 16, 256
OWN = pytest.param(
    RunAttention(), marks=pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
)
HEADS = {"as many keys": (4, 4), "grouped": (4, 2), "one": (4, 1)}
# (rows cached before, rows of this step) of each sequence.
BATCHES = {
    "ragged prefills": [(0, 5), (0, 1), (0, 17)],
    "decodes": [(9, 1), (300, 1), (1, 1)],
    "prefills and decodes": [(0, 7), (12, 1), (0, 3), (256, 1)],
    "a chunk on a cached prefix": [(6, 5), (0, 4), (255, 3)],
}


@dataclass
class Step:
    """One layer's fresh rows, already in the cache."""

    batch: PackedBatch
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    cache: KVCache

    def run(self, backend: AttentionBackend) -> torch.Tensor:
        return backend(self.query, self.key, self.value, 0, self.batch, self.cache, DIM**-0.5)


def step(
    lengths: list[tuple[int, int]],
    heads: tuple[int, int],
    paged: bool,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    rounded: torch.dtype | None = None,
) -> Step:
    """Numbers of ``dtype``, rounded to ``rounded`` before."""
    draw = torch.Generator().manual_seed(len(lengths))

    def rows(count: int, number: int) -> torch.Tensor:
        drawn = torch.randn(count, number, DIM, generator=draw).to(rounded or dtype)
        return drawn.to(device, dtype)

    ledger = PageLedger(32, PAGE, 1)
    cache: KVCache = (
        PagedCache(ledger, heads[1], DIM, dtype, device)
        if paged
        else RunCache(ledger, heads[1], DIM, dtype)
    )
    for seq, (before, fresh) in enumerate(lengths):
        ledger.reserve(seq, before + fresh)
        if before:
            old = PackedBatch((Segment(seq, before),), torch.zeros(before, 1), torch.zeros(before))
            cache.append(0, old, rows(before, heads[1]), rows(before, heads[1]))
    segments = tuple(Segment(seq, fresh) for seq, (_, fresh) in enumerate(lengths))
    total = sum(fresh for _, fresh in lengths)
    batch = PackedBatch(segments, torch.zeros(total, 1), torch.zeros(total))
    key, value = rows(total, heads[1]), rows(total, heads[1])
    cache.append(0, batch, key, value)
    return Step(batch, rows(total, heads[0]), key, value, cache)


def by_hand(this: Step) -> torch.Tensor:
    """The definition: every query row attends its own sequence's keys up to itself."""
    out = torch.empty_like(this.query)
    at = 0
    for segment in this.batch.segments:
        keys, values = this.cache.rows(segment.seq, 0)
        group = this.query.shape[1] // keys.shape[0]
        first = keys.shape[1] - segment.rows
        for row in range(segment.rows):
            for head in range(this.query.shape[1]):
                seen = keys[head // group, : first + row + 1]
                weights = (seen @ this.query[at, head] * DIM**-0.5).softmax(0)
                out[at, head] = weights @ values[head // group, : first + row + 1]
            at += 1
    return out


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_dense_is_the_definition(heads: tuple[int, int]) -> None:
    this = step([(3, 2), (0, 4)], heads, paged=False)
    torch.testing.assert_close(this.run(DenseAttention()), by_hand(this), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("paged", [False, True], ids=["runs", "pages"])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("backend", [SdpaAttention(), OWN], ids=lambda b: b.name)
def test_sdpa_is_dense(
    backend: AttentionBackend, lengths: list[tuple[int, int]], heads: tuple[int, int], paged: bool
) -> None:
    this = step(lengths, heads, paged)
    torch.testing.assert_close(this.run(backend), this.run(DenseAttention()), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", [DenseAttention(), SdpaAttention(), OWN], ids=lambda b: b.name)
def test_a_sequence_does_not_feel_its_batch(backend: AttentionBackend) -> None:
    """Bit for bit: what a sequence gets is computed by itself."""
    lengths = BATCHES["prefills and decodes"]
    this = step(lengths, (4, 2), paged=False)
    whole = this.run(backend)
    for index, (segment, start) in enumerate(
        zip(this.batch.segments, this.batch.starts, strict=True)
    ):
        rows = slice(start, start + segment.rows)
        alone = PackedBatch((segment,), torch.zeros(segment.rows, 1), torch.zeros(segment.rows))
        part = Step(alone, this.query[rows], this.key[rows], this.value[rows], this.cache)
        assert torch.equal(part.run(backend), whole[rows]), index


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_keys_read_in_place_give_the_same_bits_as_fresh_ones(heads: tuple[int, int]) -> None:
    fresh = [(0, 130), (0, 1), (0, 40)]
    outs = [step(fresh, heads, paged=paged).run(SdpaAttention()) for paged in (False, True)]
    assert torch.equal(*outs)


def test_a_mask_of_fewer_rows_than_keys_is_aligned_at_the_end() -> None:
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_the_cpu_gets_its_own_kernels_where_they_compute_the_type_and_sdpa_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ops, "available", lambda: True)
    assert choose_backend(torch.device("cpu"), torch.float32).name == "run"
    assert choose_backend(torch.device("cpu"), torch.bfloat16).name == "run"
    assert choose_backend(torch.device("cpu"), torch.float16).name == "sdpa"
    monkeypatch.setattr(ops, "available", lambda: False)
    assert choose_backend(torch.device("cpu"), torch.float32).name == "sdpa"


def test_float32_on_cuda_gets_sdpa_since_flash_kernels_are_16_bit() -> None:
    assert choose_backend(torch.device("cuda"), torch.float32).name == "sdpa"


KERNELS = {
    "pages": VarlenAttention(paged_kernel),
    "gathered": GatheredVarlenAttention(unpaged_kernel),
}


@pytest.mark.parametrize("backend", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_varlen_tells_its_kernel_what_the_cache_holds(
    lengths: list[tuple[int, int]], heads: tuple[int, int], backend: AttentionBackend
) -> None:
    this = step(lengths, heads, paged=True)
    torch.testing.assert_close(this.run(backend), this.run(DenseAttention()), atol=2e-6, rtol=1e-5)


def test_varlen_reads_pages_only() -> None:
    this = step([(0, 3)], (4, 2), paged=False)
    with pytest.raises(TypeError, match="PagedCache"):
        this.run(VarlenAttention(paged_kernel))


@pytest.mark.parametrize(
    ("attend", "name"),
    [(paged_kernel, "varlen"), (unpaged_kernel, "varlen-gathered"), (None, "sdpa")],
)
def test_16_bit_on_cuda_gets_what_this_torch_has(
    attend: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyvte.varlen.kernel", lambda: attend)
    assert choose_backend(torch.device("cuda"), torch.bfloat16).name == name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_varlen_is_dense_on_cuda(
    lengths: list[tuple[int, int]], heads: tuple[int, int], dtype: torch.dtype
) -> None:
    """pytorch#194167 left the rows after the first sequence unwritten; num_splits=1 avoids it.

    The reference computes in float32 what the kernel is given in 16 bit.
    """
    backend = choose_backend(torch.device("cuda"), dtype)
    assert backend.name.startswith("varlen")
    this = step(lengths, heads, paged=True, device="cuda", dtype=dtype)
    exact = step(lengths, heads, paged=True, device="cuda", rounded=dtype).run(DenseAttention())
    torch.testing.assert_close(this.run(backend).float(), exact, atol=0.02, rtol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sdpa_is_dense_on_cuda_in_float32() -> None:
    this = step(BATCHES["prefills and decodes"], (4, 2), paged=True, device="cuda")
    torch.testing.assert_close(
        this.run(SdpaAttention()), this.run(DenseAttention()), atol=1e-4, rtol=1e-4
    )
