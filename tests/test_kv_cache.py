"""Two caches, one behaviour: contiguous runs and pages hold the same rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyvte.kv_cache import KVCache, PagedCache, RunCache
from dyvte.packing import PackedBatch, Segment
from dyvte.pages import OutOfPages, PageLedger

LAYERS, HEADS, DIM, PAGE = 2, 2, 3, 4
CACHES: dict[str, type[RunCache | PagedCache]] = {"runs": RunCache, "pages": PagedCache}


def make(kind: str, pages: int = 60) -> KVCache:
    return CACHES[kind](PageLedger(pages, PAGE, LAYERS), HEADS, DIM, torch.float32)


def append(cache: KVCache, rows: dict[int, int], layer: int, seed: int) -> None:
    """Add that many random rows to each sequence, as one packed step would."""
    total = sum(rows.values())
    draw = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, total, HEADS, DIM, generator=draw)
    segments = tuple(Segment(seq, count) for seq, count in rows.items())
    batch = PackedBatch(segments, torch.zeros(total, 1), torch.zeros(total))
    cache.append(layer, batch, keys, values)


def content(cache: KVCache, seq: int) -> list[torch.Tensor]:
    return [torch.stack(cache.rows(seq, layer)).clone() for layer in range(LAYERS)]


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest) -> KVCache:
    return make(request.param)


steps = st.lists(
    st.dictionaries(st.integers(0, 2), st.integers(1, 6), min_size=1), min_size=1, max_size=6
)


@given(steps)
def test_runs_and_pages_hold_the_same_rows(several: list[dict[int, int]]) -> None:
    both = [make("runs"), make("pages")]
    held: dict[int, int] = {}
    for seed, rows in enumerate(several):
        for seq, count in rows.items():
            held[seq] = held.get(seq, 0) + count
            for cache in both:
                if seq not in cache.ledger.sequences:
                    cache.ledger.reserve(seq, 1)
                cache.ledger.grow(seq, [held[seq]] * LAYERS)
        for layer in range(LAYERS):
            for cache in both:
                append(cache, rows, layer, 10 * seed + layer)
    for seq, count in held.items():
        ours, theirs = (content(cache, seq) for cache in both)
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
        assert both[0].lengths(seq) == both[1].lengths(seq) == [count] * LAYERS


def test_layers_hold_as_many_rows_as_were_appended(cache: KVCache) -> None:
    """Above an exit only text arrives."""
    cache.ledger.reserve(0, 9)
    append(cache, {0: 9}, 0, 1)
    append(cache, {0: 3}, 1, 2)
    assert cache.lengths(0) == [9, 3]
    assert [rows.shape for rows in cache.rows(0, 1)] == [(HEADS, 3, DIM)] * 2


@pytest.mark.parametrize("rows", [3, 4, 9])
def test_a_fork_and_its_parent_never_see_each_others_rows(rows: int, cache: KVCache) -> None:
    """Also where the last page is full, half full, or the only one: pages are copied on write."""
    cache.ledger.reserve(0, rows)
    for layer in range(LAYERS):
        append(cache, {0: rows}, layer, layer)
    before = content(cache, 0)
    cache.fork(0, 1)
    torch.testing.assert_close(content(cache, 1), before, atol=0, rtol=0)
    for count in range(1, 6):
        for seq in (0, 1):
            cache.ledger.grow(seq, [rows + count] * LAYERS)
        for layer in range(LAYERS):
            append(cache, {0: 1, 1: 1}, layer, 100 * count + layer)
    for seq in (0, 1):
        now = [rows_of[:, :, :rows] for rows_of in content(cache, seq)]
        torch.testing.assert_close(now, before, atol=0, rtol=0)
    assert not torch.equal(content(cache, 0)[0], content(cache, 1)[0])
    parent = content(cache, 0)
    cache.release(1)
    torch.testing.assert_close(content(cache, 0), parent, atol=0, rtol=0)
    cache.release(0)
    assert cache.ledger.usage == 0


def test_a_fork_without_room_changes_nothing() -> None:
    for kind in CACHES:
        cache = make(kind, pages=3)
        cache.ledger.reserve(0, 2)
        for layer in range(LAYERS):
            append(cache, {0: 2}, layer, layer)
        with pytest.raises(OutOfPages):
            cache.fork(0, 1)
        assert cache.lengths(1) == [0] * LAYERS
        assert cache.ledger.num_free == 1


def test_a_rewound_step_can_be_written_again(cache: KVCache) -> None:
    cache.ledger.reserve(0, 7)
    for layer in range(LAYERS):
        append(cache, {0: 5}, layer, layer)
    before = content(cache, 0)
    append(cache, {0: 1}, 0, 50)
    cache.rewind({0: [5, 5], 9: [1, 1]})
    torch.testing.assert_close(content(cache, 0), before, atol=0, rtol=0)
    for layer in range(LAYERS):
        append(cache, {0: 2}, layer, 60 + layer)
    assert cache.lengths(0) == [7, 7]
    assert cache.lengths(9) == [0, 0]


def test_release_forgets_rows_and_pages(cache: KVCache) -> None:
    cache.ledger.reserve(0, 5)
    append(cache, {0: 5}, 0, 1)
    cache.release(0)
    cache.release(0)
    assert cache.lengths(0) == [0, 0]
    assert cache.ledger.usage == 0


def test_a_block_table_names_the_pages_of_each_sequence() -> None:
    cache = make("pages")
    assert isinstance(cache, PagedCache)
    cache.ledger.reserve(3, 9)
    cache.ledger.reserve(5, 2)
    table = cache.block_table(1, [3, 5])
    assert table.dtype is torch.int32
    assert table[0].tolist() == list(cache.ledger.table(3, 1))
    assert table[1].tolist() == [*cache.ledger.table(5, 1), 0, 0]


def kept(cache: KVCache, rows: int) -> list[torch.Tensor]:
    """Sequence 0 computed 6 rows and ended; its first ``rows`` are kept as -1."""
    cache.ledger.reserve(0, 6)
    for layer in range(LAYERS):
        append(cache, {0: 6}, layer, layer)
    before = content(cache, 0)
    cache.keep(0, -1, [rows] * LAYERS)
    return [each[:, :, :rows] for each in before]


def test_what_is_kept_is_the_beginning_and_counts_as_free(cache: KVCache) -> None:
    prefix = kept(cache, 3)
    assert all(map(torch.equal, content(cache, -1), prefix))
    assert cache.lengths(0) == [0] * LAYERS
    assert cache.ledger.num_free == cache.ledger.num_pages
    cache.ledger.reserve(1, cache.ledger.num_pages // LAYERS * PAGE)
    assert cache.ledger.sequences == [1]


@pytest.mark.parametrize("rows", [3, 5, 9])
def test_takers_write_behind_the_same_rows_without_disturbing_each_other(
    rows: int, cache: KVCache
) -> None:
    """One of them writes where the rows lie; more than fits there moves it."""
    prefix = kept(cache, 3)
    for seq in (1, 2, 3):
        cache.ledger.reserve(seq, 3 + rows)
        for layer in range(LAYERS):
            cache.take(-1, seq, layer, 3, 3 + min(rows, 4))
    for layer in range(LAYERS):
        append(cache, {1: rows, 2: rows, 3: rows}, layer, 20 + layer)
    for layer in range(LAYERS):
        draw = torch.Generator().manual_seed(20 + layer)
        fresh = torch.randn(2, 3 * rows, HEADS, DIM, generator=draw).transpose(1, 2)
        for index, seq in enumerate((1, 2, 3)):
            own = fresh[:, :, index * rows : (index + 1) * rows]
            assert torch.equal(content(cache, seq)[layer], torch.cat([prefix[layer], own], 2))
    cache.release(1)
    cache.release(-1)
    assert torch.equal(content(cache, 2)[0][:, :, :3], prefix[0])
    cache.release(2)
    cache.release(3)
    assert cache.ledger.num_free == cache.ledger.num_pages


def test_one_taker_at_a_time_needs_no_copy() -> None:
    cache = make("runs")
    assert isinstance(cache, RunCache)
    kept(cache, 3)
    for seq in (1, 2):
        cache.ledger.reserve(seq, 6)
        cache.take(-1, seq, 0, 3, 6)
    lying = cache._runs[-1, 0]
    assert cache._runs[1, 0] is lying
    assert cache._runs[2, 0] is not lying
    cache.release(1)
    cache.ledger.reserve(3, 6)
    cache.take(-1, 3, 0, 3, 6)
    assert cache._runs[3, 0] is lying
    cache.rewind({3: [0] * LAYERS})
    append(cache, {3: 6}, 0, 9)
    assert cache._runs[3, 0] is not lying


def test_pieces_of_a_prefill_move_the_rows_before_them_once() -> None:
    """A row at a time, as answers grow, takes a page when it is needed."""
    cache = make("runs")
    assert isinstance(cache, RunCache)
    cache.ledger.reserve(0, 40)
    places = []
    for piece in range(5):
        append(cache, {0: 8}, 0, piece)
        places.append(cache.run(0, 0)[0])
    assert places[1:] == [places[1]] * 4
    assert cache._runs[0, 0].capacity == 40
    cache.ledger.grow(0, [48] * LAYERS)
    append(cache, {0: 1}, 0, 9)
    assert cache._runs[0, 0].capacity == 44
