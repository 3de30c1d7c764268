"""The page tensors: keys and values of every (sequence, layer), booked in a ``PageLedger``.

``RunCache`` keeps the rows of a (sequence, layer) in one contiguous run, which CPU attention
reads in place; ``PagedCache`` keeps them in fixed pages of one pool, which CUDA kernels read
through block tables. Both hold exactly the rows that were appended: what left never arrives.

Shapes: T rows of a step, H key/value heads, D head_dim, n rows of one sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dyvte.kernels import ops
from dyvte.kernels.ops import Run
from dyvte.packing import PackedBatch
from dyvte.pages import PageLedger
from dyvte.transfer import moved, upload


class KVCache(ABC):
    """Keys and values of all live sequences, and of those that are kept in case of use.

    Mutated by ``append``, ``take``, ``fork``, ``keep`` and ``release``. ``in_place``: ``rows`` are
    views, so that reading them copies nothing.
    """

    in_place: ClassVar[bool] = False

    def __init__(self, ledger: PageLedger, heads: int, head_dim: int, dtype: torch.dtype) -> None:
        self.ledger = ledger
        self.heads = heads
        self.head_dim = head_dim
        self.dtype = dtype
        self._lengths: dict[int, list[int]] = {}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's key and value in one layer."""
        return 2 * self.heads * self.head_dim * self.dtype.itemsize

    def lengths(self, seq: int) -> list[int]:
        """Rows held in each layer (a copy)."""
        return list(self._lengths.get(seq) or [0] * self.ledger.num_layers)

    def length(self, seq: int, layer: int) -> int:
        """Rows held in one layer."""
        rows = self._lengths.get(seq)
        return rows[layer] if rows else 0

    def append(self, layer: int, batch: PackedBatch, k_THD: Tensor, v_THD: Tensor) -> None:
        """Add the step's rows to their sequences. The ledger must hold the pages already."""
        for segment, start in zip(batch.segments, batch.starts, strict=True):
            rows = self._lengths.setdefault(segment.seq, [0] * self.ledger.num_layers)
            stop = start + segment.rows
            self._write(segment.seq, layer, rows[layer], k_THD[start:stop], v_THD[start:stop])
            rows[layer] += segment.rows

    def rewind(self, lengths: Mapping[int, Sequence[int]]) -> None:
        """Forget rows beyond the given lengths: undo a step that raised half-way."""
        for seq, rows in lengths.items():
            if seq in self._lengths:
                self._lengths[seq] = list(rows)

    def fork(self, parent: int, child: int) -> None:
        """Give ``child`` a copy of the parent's rows. Raises OutOfPages."""
        self._fork(parent, child)
        self._lengths[child] = list(self._lengths[parent])

    def take(self, source: int, seq: int, layer: int, rows: int, room: int) -> None:
        """Copy the first ``rows`` rows of ``source`` to ``seq``, which holds none in ``layer`` yet
        and will soon hold ``room``. The ledger must hold the pages already."""
        lengths = self._lengths.setdefault(seq, [0] * self.ledger.num_layers)
        assert lengths[layer] == 0, "rows are taken before any is computed"
        assert rows <= self._lengths[source][layer], "no more than there are"
        self._take(source, seq, layer, rows, room)
        lengths[layer] = rows

    def keep(self, seq: int, other: int, rows_per_layer: Sequence[int]) -> None:
        """Of ``seq`` keep the first rows of each layer, under the name ``other``, until
        pages are short; ``seq`` holds nothing afterwards."""
        held = self._lengths.pop(seq)
        assert all(keep <= rows for keep, rows in zip(rows_per_layer, held, strict=True))
        self._lengths[other] = list(rows_per_layer)
        self.ledger.rename(seq, other)
        self.ledger.settle(other, self._rename(seq, other))
        self.ledger.keep(other)

    def cut(self, seq: int, rows_per_layer: Sequence[int]) -> None:
        """Of ``seq``, which is kept, hold the first rows of each layer only; its pages stay."""
        held = self._lengths[seq]
        assert all(keep <= rows for keep, rows in zip(rows_per_layer, held, strict=True))
        self._lengths[seq] = list(rows_per_layer)

    def release(self, seq: int) -> None:
        """Drop a sequence and return its pages."""
        self._lengths.pop(seq, None)
        self._drop(seq)
        self.ledger.release(seq)

    @abstractmethod
    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[H, n, D]`` of one (sequence, layer), contiguous along n."""

    @abstractmethod
    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None: ...

    def _take(self, source: int, seq: int, layer: int, rows: int, room: int) -> None:
        del room
        keys, values = self.rows(source, layer)
        own_k, own_v = keys[:, :rows].transpose(0, 1), values[:, :rows].transpose(0, 1)
        self._write(seq, layer, 0, own_k, own_v)

    def _rename(self, seq: int, other: int) -> Sequence[int]:
        """Move the rows to another name; the rows of each layer that pages must be held for."""
        return self._lengths[other]

    @abstractmethod
    def _fork(self, parent: int, child: int) -> None: ...

    @abstractmethod
    def _drop(self, seq: int) -> None: ...


class _Held:
    """A run ``[2, H, capacity, D]`` and its place: keys' and values' addresses, head to head.

    A decode step asks for the place of every run twice, and a tensor for each of these numbers
    takes longer to answer than its row takes to be written.
    """

    __slots__ = ("capacity", "place", "run")

    def __init__(self, run: Tensor) -> None:
        keys, (between, head, _, _) = run.data_ptr(), run.stride()
        self.run, self.capacity = run, run.shape[2]
        self.place = keys, keys + between * run.itemsize, head


class RunCache(KVCache):
    """One growing run ``[2, H, capacity, D]`` per (sequence, layer), allocated when written.

    The ledger's pages are the promise, the runs are what is really held: a layer above the exit
    allocates for its text rows only.
    """

    in_place = True

    def __init__(self, ledger: PageLedger, heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__(ledger, heads, head_dim, dtype)
        self._runs: dict[tuple[int, int], _Held] = {}
        self._writers: dict[tuple[int, int], int] = {}  # who writes behind a kept prefix

    def rewind(self, lengths: Mapping[int, Sequence[int]]) -> None:
        """As ever; a run that is empty again is let go, since it may be a kept prefix's."""
        super().rewind(lengths)
        for seq, rows in lengths.items():
            for layer in (layer for layer, count in enumerate(rows) if not count):
                self._runs.pop((seq, layer), None)

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Views into the run."""
        keys, values = self._runs[seq, layer].run.narrow(2, 0, self._lengths[seq][layer])
        return keys, values

    def run(self, seq: int, layer: int) -> Run:
        """Where ``rows`` lie."""
        keys, values, head = self._runs[seq, layer].place
        return keys, values, head, self._lengths[seq][layer]

    def append(self, layer: int, batch: PackedBatch, k_THD: Tensor, v_THD: Tensor) -> None:
        """Where every sequence adds one row, keys and values go there in one write."""
        if len(batch.segments) < len(k_THD):
            super().append(layer, batch, k_THD, v_THD)
            return
        runs = [self._one_more(each.seq, layer, k_THD.device) for each in batch.segments]
        if k_THD.device.type == "cpu" and ops.computes(self.dtype):
            ops.append_single(k_THD, v_THD, runs)
            return
        both = torch.stack((k_THD, v_THD))
        for index, segment in enumerate(batch.segments):
            last = self._lengths[segment.seq][layer] - 1
            self._runs[segment.seq, layer].run[:, :, last] = both[:, index]

    def _one_more(self, seq: int, layer: int, device: torch.device) -> Run:
        """The run with its next row counted, not yet written."""
        rows = self._lengths.get(seq)
        if rows is None:
            rows = self._lengths[seq] = [0] * self.ledger.num_layers
        at = rows[layer]
        rows[layer] = stop = at + 1
        keys, values, head = self._room(seq, layer, at, stop, device).place
        return keys, values, head, stop

    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None:
        stop = at + k_nHD.shape[0]
        run = self._room(seq, layer, at, stop, k_nHD.device).run
        run[0, :, at:stop] = k_nHD.transpose(0, 1)
        run[1, :, at:stop] = v_nHD.transpose(0, 1)

    def _room(self, seq: int, layer: int, at: int, stop: int, device: torch.device) -> _Held:
        """The run, large enough for ``stop`` rows; its first ``at`` are kept."""
        held = self._runs.get((seq, layer))
        if held is not None and held.capacity >= stop:
            return held
        grown = self._new(stop, device)
        if held is not None:
            grown.run[:, :, :at] = held.run[:, :, :at]
        self._runs[seq, layer] = grown
        return grown

    def _new(self, rows: int, device: torch.device) -> _Held:
        capacity = self.ledger.pages_for(rows) * self.ledger.page_size
        shape = (2, self.heads, capacity, self.head_dim)
        return _Held(torch.empty(shape, dtype=self.dtype, device=device))

    def _take(self, source: int, seq: int, layer: int, rows: int, room: int) -> None:
        """One at a time may write behind a prefix that is kept, where it lies; others copy it."""
        there = self._runs[source, layer]
        if self._lengths[source][layer] == rows and room <= there.capacity:
            writer = self._writers.get((source, layer))
            if writer is None or self._runs.get((writer, layer)) is not there:
                self._writers[source, layer], self._runs[seq, layer] = seq, there
                return
        self._runs[seq, layer] = own = self._new(room, there.run.device)
        own.run[:, :, :rows] = there.run[:, :, :rows]

    def _rename(self, seq: int, other: int) -> Sequence[int]:
        """A run that is not much too long stays as it is: moving it costs more than it frees."""
        capacities = []
        for layer, rows in enumerate(self._lengths[other]):
            held = self._runs.pop((seq, layer))
            enough = 2 * self.ledger.pages_for(rows) * self.ledger.page_size
            if held.capacity > min(enough, self.ledger.capacity(other, layer)):
                longer, held = held, self._new(rows, held.run.device)
                held.run[:, :, :rows] = longer.run[:, :, :rows]
            self._runs[other, layer] = held
            capacities.append(held.capacity)
        return capacities

    def _fork(self, parent: int, child: int) -> None:
        self.ledger.fork(parent, child, self._lengths[parent], share=False)
        for layer in range(self.ledger.num_layers):
            self._runs[child, layer] = _Held(self._runs[parent, layer].run.clone())

    def _drop(self, seq: int) -> None:
        for layer in range(self.ledger.num_layers):
            self._runs.pop((seq, layer), None)
            self._writers.pop((seq, layer), None)


class PagedCache(KVCache):
    """Two pools ``[pages + 1, page_size, H, D]``; a forked sequence shares its full pages.

    The page beyond the ledger's is ``spare_page``: what is written there nobody reads.
    """

    def __init__(
        self,
        ledger: PageLedger,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(ledger, heads, head_dim, dtype)
        self.spare_page = ledger.num_pages
        shape = (ledger.num_pages + 1, ledger.page_size, heads, head_dim)
        self.k_pool = torch.zeros(shape, dtype=dtype, device=device)
        self.v_pool = torch.zeros(shape, dtype=dtype, device=device)
        self._blocks: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Gathered copies (the kernels with paging do without)."""
        length = self._lengths[seq][layer]
        slots = self._tensor(self._slots(seq, layer, 0, length))
        flat = (-1, self.heads, self.head_dim)
        keys = self.k_pool.view(flat).index_select(0, slots)
        values = self.v_pool.view(flat).index_select(0, slots)
        return keys.transpose(0, 1), values.transpose(0, 1)

    def block_table(self, layer: int, seqs: Sequence[int]) -> Tensor:
        """Page ids ``[S, most pages of any]`` (int32, padded with 0) of several sequences."""
        return self._tensor(_padded([self.ledger.table(seq, layer) for seq in seqs]))

    def blocks(self, seq: int) -> np.ndarray:
        """Page ids of a sequence in every layer ``[L, most pages of any]`` (int32, padded)."""
        tables = [self.ledger.table(seq, layer) for layer in range(self.ledger.num_layers)]
        counts = tuple(map(len, tables))
        known = self._blocks.get(seq)
        if known is None or known[0] != counts:
            known = self._blocks[seq] = counts, _padded(tables)
        return known[1]

    def append(self, layer: int, batch: PackedBatch, k_THD: Tensor, v_THD: Tensor) -> None:
        """One scatter for all rows of the step."""
        slots: list[np.ndarray] = []
        for segment in batch.segments:
            rows = self._lengths.setdefault(segment.seq, [0] * self.ledger.num_layers)
            slots.append(self._slots(segment.seq, layer, rows[layer], rows[layer] + segment.rows))
            rows[layer] += segment.rows
        self.scatter(self._tensor(np.concatenate(slots)), k_THD, v_THD)

    def scatter(self, slots: Tensor, k_THD: Tensor, v_THD: Tensor) -> None:
        """Write rows to slots ``[T]`` of the pool; lengths stay as they are."""
        flat = (-1, self.heads, self.head_dim)
        self.k_pool.view(flat).index_copy_(0, slots, k_THD)
        self.v_pool.view(flat).index_copy_(0, slots, v_THD)

    def appended(self, seqs: Sequence[int]) -> None:
        """Note that every layer of some sequences holds one row more, written by ``scatter``."""
        for seq in seqs:
            self._lengths[seq] = [rows + 1 for rows in self._lengths[seq]]

    def _slots(self, seq: int, layer: int, start: int, stop: int) -> np.ndarray:
        """Where rows ``start..stop-1`` of one (sequence, layer) lie in the pool."""
        size, rows = self.ledger.page_size, np.arange(start, stop)
        table = np.array(self.ledger.table(seq, layer), dtype=np.int64)
        return table[rows // size] * size + rows % size

    def _tensor(self, slots: np.ndarray) -> Tensor:
        return moved(torch.from_numpy(slots), self.k_pool.device)

    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None:
        slots = self._slots(seq, layer, at, at + k_nHD.shape[0])
        self.scatter(self._tensor(slots), k_nHD, v_nHD)

    def _take(self, source: int, seq: int, layer: int, rows: int, room: int) -> None:
        there, here = (self._tensor(self._slots(each, layer, 0, rows)) for each in (source, seq))
        flat = (-1, self.heads, self.head_dim)
        keys, values = self.k_pool.view(flat), self.v_pool.view(flat)
        self.scatter(here, keys.index_select(0, there), values.index_select(0, there))

    def _fork(self, parent: int, child: int) -> None:
        copies = self.ledger.fork(parent, child, self._lengths[parent], share=True)
        if copies:
            source = upload([a for _, a, _ in copies], torch.int64, self.k_pool.device)
            target = upload([b for _, _, b in copies], torch.int64, self.k_pool.device)
            self.k_pool[target] = self.k_pool[source]
            self.v_pool[target] = self.v_pool[source]

    def _drop(self, seq: int) -> None:
        """The pages themselves need no clearing: lengths say what is valid."""
        self._blocks.pop(seq, None)


def _padded(tables: Sequence[Sequence[int]]) -> np.ndarray:
    """Page ids of several tables ``[tables, most pages of any]`` (int32, padded with 0)."""
    width = max(map(len, tables))
    return np.array([[*table, *[0] * (width - len(table))] for table in tables], dtype=np.int32)
