"""The page ledger: who holds which KV pages, per (sequence, layer). Integers only, no torch.

A page is ``page_size`` rows of keys and values of one layer. Admission reserves a prompt as if
nothing exits; ``settle`` gives back what the layers above the exit never needed; decode grows
page by page. Every page is either free or in exactly one table entry, or shared and counted.
What is merely kept, in case that it is of use again, counts as free and is given up when pages
are short.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class OutOfPages(Exception):
    """The pool cannot give what was asked; nothing was taken."""


@dataclass(slots=True)
class PageLedger:
    """Books of ``num_pages`` pages shared by all layers of all sequences.

    Invariant: ``free + distinct pages in tables == num_pages``. All methods either succeed whole
    or raise and change nothing. ``give_up`` is told which kept sequence has to go; it must
    release it.
    """

    num_pages: int
    page_size: int
    num_layers: int
    _free: list[int] = field(init=False, repr=False)
    _tables: dict[int, list[list[int]]] = field(init=False, repr=False, default_factory=dict)
    _holders: dict[int, int] = field(init=False, repr=False, default_factory=dict)
    _kept: dict[int, int] = field(init=False, repr=False, default_factory=dict)
    give_up: Callable[[int], None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.give_up = self.release
        if min(self.num_pages, self.page_size, self.num_layers) < 1:
            raise ValueError("pages, page size and layers must be at least 1")
        self._free = list(range(self.num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Pages that can be had: nobody's, and those of sequences that are merely kept."""
        return len(self._free) + sum(self._kept.values())

    @property
    def usage(self) -> float:
        """Share of the pool that is held and needed, 0..1."""
        return 1.0 - self.num_free / self.num_pages

    @property
    def sequences(self) -> Sequence[int]:
        """Ids of the sequences that hold pages."""
        return list(self._tables)

    def pages_for(self, rows: int) -> int:
        """Pages that ``rows`` rows of one layer fill (at least one)."""
        return max(1, -(-rows // self.page_size))

    def fits(self, rows: int, copies: int = 1) -> bool:
        """True if ``copies`` sequences of ``rows`` rows could be reserved now."""
        return copies * self.num_layers * self.pages_for(rows) <= self.num_free

    def fits_empty(self, rows: int) -> bool:
        """True if one sequence of ``rows`` rows fits a pool with nothing else in it."""
        return self.num_layers * self.pages_for(rows) <= self.num_pages

    def table(self, seq: int, layer: int) -> Sequence[int]:
        """Page ids of one (sequence, layer), in row order."""
        return self._tables[seq][layer]

    def capacity(self, seq: int, layer: int) -> int:
        """Rows that the pages of one (sequence, layer) can hold."""
        return len(self._tables[seq][layer]) * self.page_size

    def reserve(self, seq: int, rows: int) -> None:
        """Take pages for ``rows`` rows in every layer. Raises OutOfPages."""
        if seq in self._tables:
            raise ValueError(f"sequence {seq} already holds pages")
        per_layer = self.pages_for(rows)
        taken = self._take(per_layer * self.num_layers)
        self._tables[seq] = [
            taken[layer * per_layer : (layer + 1) * per_layer] for layer in range(self.num_layers)
        ]

    def settle(self, seq: int, rows_per_layer: Sequence[int]) -> int:
        """Give back what each layer holds beyond its rows; return the number of pages freed."""
        before = len(self._free)
        over: list[int] = []
        for table, rows in zip(self._tables[seq], rows_per_layer, strict=True):
            keep = self.pages_for(rows)
            over += table[keep:]
            del table[keep:]
        self._give_back(over)
        return len(self._free) - before

    def grow(self, seq: int, rows_per_layer: Sequence[int]) -> None:
        """Make every layer hold at least its rows. Raises OutOfPages."""
        tables = self._tables[seq]
        missing = [
            max(0, self.pages_for(rows) - len(table))
            for table, rows in zip(tables, rows_per_layer, strict=True)
        ]
        if not any(missing):
            return
        taken = self._take(sum(missing))
        for table, count in zip(tables, missing, strict=True):
            for _ in range(count):
                table.append(taken.pop())

    def fork(
        self, parent: int, child: int, rows_per_layer: Sequence[int], share: bool
    ) -> list[tuple[int, int, int]]:
        """Give ``child`` the parent's rows; return (layer, from page, to page) to be copied.

        With ``share`` full pages are held by both and only a part-filled last page is copied;
        without, every page is. Raises OutOfPages.
        """
        if child in self._tables:
            raise ValueError(f"sequence {child} already holds pages")
        parent_tables = self._tables[parent]
        copies: list[tuple[int, int, int]] = []
        tables: list[list[int]] = []
        shared = [rows // self.page_size if share else 0 for rows in rows_per_layer]
        needed = [self.pages_for(r) - s for r, s in zip(rows_per_layer, shared, strict=True)]
        taken = self._take(sum(needed))
        for layer, (keep, fresh) in enumerate(zip(shared, needed, strict=True)):
            source = parent_tables[layer]
            own = [taken.pop() for _ in range(fresh)]
            for page in source[:keep]:
                self._holders[page] = self._holders.get(page, 1) + 1
            copies += [(layer, a, b) for a, b in zip(source[keep:], own, strict=False)]
            tables.append([*source[:keep], *own])
        self._tables[child] = tables
        return copies

    def rename(self, seq: int, other: int) -> None:
        """What ``seq`` holds belongs to ``other`` from now on."""
        assert other not in self._tables, f"sequence {other} already holds pages"
        self._tables[other] = self._tables.pop(seq)

    def held(self, seq: int) -> int:
        """Pages in all layers of one sequence."""
        return sum(map(len, self._tables[seq]))

    def keep(self, seq: int) -> None:
        """Nobody needs ``seq`` now: its pages may be taken, after those of all kept before it.

        Pages that it shares are not counted until it is their last holder.
        """
        self._kept.pop(seq, None)
        self._kept[seq] = self._alone(seq)

    def need(self, seq: int) -> None:
        """A kept sequence is needed after all; of others it is no error to say so."""
        self._kept.pop(seq, None)

    def release(self, seq: int) -> None:
        """Give back everything; a sequence that holds nothing is no error."""
        self._kept.pop(seq, None)
        self._give_back([*itertools.chain.from_iterable(self._tables.pop(seq, []))])

    def _take(self, count: int) -> list[int]:
        if count > self.num_free:
            raise OutOfPages(f"{count} pages asked, {self.num_free} free")
        while count > len(self._free):
            self.give_up(next(iter(self._kept)))
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def _alone(self, seq: int) -> int:
        """Pages that nobody else holds."""
        pages = itertools.chain.from_iterable(self._tables[seq])
        return sum(1 for page in pages if page not in self._holders)

    def _give_back(self, pages: Sequence[int]) -> None:
        shared = len(self._holders)
        for page in reversed(pages):
            holders = self._holders.get(page, 1) - 1
            if holders == 0:
                self._holders.pop(page, None)
                self._free.append(page)
            elif holders == 1:
                del self._holders[page]
            else:
                self._holders[page] = holders
        if len(self._holders) < shared:  # the last holder may be one that is kept
            self._kept = {seq: self._alone(seq) for seq in self._kept}
