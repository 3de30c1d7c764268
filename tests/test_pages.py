"""The ledger's one law: free pages and held pages are all the pages, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dyvte.pages import OutOfPages, PageLedger

LAYERS, PAGE, POOL = 3, 4, 24
rows_each = st.lists(st.integers(1, 14), min_size=LAYERS, max_size=LAYERS)


class LedgerMachine(RuleBasedStateMachine):
    """Random reserve, settle, grow, fork and release, with a plain record of who holds what."""

    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PageLedger(POOL, PAGE, LAYERS)
        self.next = 0
        self.rows: dict[int, list[int]] = {}

    def new(self, rows: list[int]) -> int:
        self.next += 1
        self.rows[self.next - 1] = rows
        return self.next - 1

    @rule(target=live, rows=st.integers(1, 14))
    def reserve(self, rows: int) -> int:
        fits, free = self.ledger.fits(rows), self.ledger.num_free
        try:
            self.ledger.reserve(self.next, rows)
        except OutOfPages:
            assert not fits
            assert self.ledger.num_free == free
            return -1
        assert fits
        return self.new([rows] * LAYERS)

    @rule(seq=live, rows=rows_each)
    def settle(self, seq: int, rows: list[int]) -> None:
        if seq not in self.rows:
            return
        fewer = [min(a, b) for a, b in zip(rows, self.rows[seq], strict=True)]
        free = self.ledger.num_free
        assert self.ledger.settle(seq, fewer) == self.ledger.num_free - free
        self.rows[seq] = fewer

    @rule(seq=live, rows=rows_each)
    def grow(self, seq: int, rows: list[int]) -> None:
        if seq not in self.rows:
            return
        before = [list(self.ledger.table(seq, layer)) for layer in range(LAYERS)]
        more = [max(a, b) for a, b in zip(rows, self.rows[seq], strict=True)]
        try:
            self.ledger.grow(seq, more)
        except OutOfPages:
            assert [list(self.ledger.table(seq, layer)) for layer in range(LAYERS)] == before
            return
        self.rows[seq] = more
        for layer, pages in enumerate(before):
            assert list(self.ledger.table(seq, layer))[: len(pages)] == pages

    @rule(target=live, seq=live, share=st.booleans())
    def fork(self, seq: int, share: bool) -> int:
        if seq not in self.rows:
            return -1
        self.ledger.settle(seq, self.rows[seq])
        free = self.ledger.num_free
        try:
            copies = self.ledger.fork(seq, self.next, self.rows[seq], share)
        except OutOfPages:
            assert self.ledger.num_free == free
            return -1
        assert len(copies) == free - self.ledger.num_free
        self.check_fork(seq, self.next, copies, share)
        return self.new(list(self.rows[seq]))

    def check_fork(
        self, parent: int, child: int, copies: list[tuple[int, int, int]], share: bool
    ) -> None:
        """The child reads the parent's rows, and may write where its next row goes."""
        copied = {(layer, new): old for layer, old, new in copies}
        for layer, rows in enumerate(self.rows[parent]):
            mine, theirs = self.ledger.table(child, layer), self.ledger.table(parent, layer)
            assert [copied.get((layer, page), page) for page in mine] == list(theirs)
            full = rows // PAGE if share else 0
            assert list(mine)[:full] == list(theirs)[:full]
            assert not set(list(mine)[full:]) & set(theirs)

    @rule(seq=consumes(live))
    def release(self, seq: int) -> None:
        self.ledger.release(seq)
        self.ledger.release(seq)
        self.rows.pop(seq, None)

    @invariant()
    def free_and_held_are_all(self) -> None:
        ledger = self.ledger
        tables = [
            list(ledger.table(seq, layer)) for seq in ledger.sequences for layer in range(LAYERS)
        ]
        held = {page for table in tables for page in table}
        assert ledger.num_free + len(held) == POOL
        assert len(set(ledger._free)) == ledger.num_free
        assert not held & set(ledger._free)
        counts = {page: sum(table.count(page) for table in tables) for page in held}
        assert ledger._holders == {page: n for page, n in counts.items() if n > 1}

    @invariant()
    def everybody_holds_its_rows(self) -> None:
        assert set(self.ledger.sequences) == set(self.rows)
        for seq, rows in self.rows.items():
            for layer, count in enumerate(rows):
                assert self.ledger.capacity(seq, layer) >= count

    def teardown(self) -> None:
        for seq in list(self.rows):
            self.ledger.release(seq)
        assert self.ledger.num_free == POOL
        assert self.ledger.usage == 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(stateful_step_count=25)


def test_settling_an_exit_returns_what_the_layers_above_never_needed() -> None:
    ledger = PageLedger(100, 4, 6)
    ledger.reserve(0, 20)
    assert ledger.settle(0, [20, 20, 20, 5, 5, 5]) == 3 * 3
    assert [ledger.capacity(0, layer) for layer in range(6)] == [20, 20, 20, 8, 8, 8]


def test_a_shared_page_is_free_when_its_last_holder_goes() -> None:
    ledger = PageLedger(10, 4, 1)
    ledger.reserve(0, 8)
    assert ledger.fork(0, 1, [8], share=True) == []
    ledger.release(0)
    assert ledger.num_free == 8
    ledger.release(1)
    assert ledger.num_free == 10


def test_a_kept_page_that_others_shared_can_be_had_when_they_are_gone() -> None:
    """It once never counted as free again, so that whoever needed it waited for ever."""
    ledger = PageLedger(10, 4, 1)
    ledger.reserve(0, 8)
    ledger.fork(0, 1, [8], share=True)
    ledger.keep(0)
    assert ledger.num_free == 8
    ledger.release(1)
    assert ledger.num_free == 10
    ledger.reserve(2, 40)
    assert ledger.sequences == [2]


def test_a_fork_of_nobody_takes_nothing() -> None:
    ledger = PageLedger(10, 4, 1)
    with pytest.raises(KeyError):
        ledger.fork(7, 8, [6], share=False)
    assert ledger.num_free == 10


@pytest.mark.parametrize("numbers", [(0, 4, 1), (4, 0, 1), (4, 4, 0)])
def test_a_pool_of_nothing_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PageLedger(*numbers)


def test_a_sequence_reserves_once() -> None:
    ledger = PageLedger(10, 4, 1)
    ledger.reserve(0, 4)
    with pytest.raises(ValueError, match="already"):
        ledger.reserve(0, 4)
    with pytest.raises(ValueError, match="already"):
        ledger.fork(0, 0, [4], share=False)
