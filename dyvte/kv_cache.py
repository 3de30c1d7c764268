"""The page tensors: keys and values of every (sequence, layer), booked in a ``PageLedger``.

``RunCache`` keeps the rows of a (sequence, layer) in one contiguous run, which CPU attention
reads in place; ``PagedCache`` keeps them in fixed pages of one pool, which CUDA kernels read
through block tables. Both hold exactly the rows that were appended: what left never arrives.

Shapes: T rows of a step, H key/value heads, D head_dim, n rows of one sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyvte.packing import PackedBatch
from dyvte.pages import PageLedger


class KVCache(ABC):
    """Keys and values of all live sequences. Mutated by ``append``, ``fork``, ``release``."""

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

    @abstractmethod
    def _fork(self, parent: int, child: int) -> None: ...

    @abstractmethod
    def _drop(self, seq: int) -> None: ...


class RunCache(KVCache):
    """One growing run ``[2, H, capacity, D]`` per (sequence, layer), allocated when written.

    The ledger's pages are the promise, the runs are what is really held: a layer above the exit
    allocates for its text rows only.
    """

    def __init__(self, ledger: PageLedger, heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__(ledger, heads, head_dim, dtype)
        self._runs: dict[tuple[int, int], Tensor] = {}

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Views into the run."""
        run = self._runs[seq, layer]
        length = self._lengths[seq][layer]
        return run[0, :, :length], run[1, :, :length]

    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None:
        stop = at + k_nHD.shape[0]
        run = self._runs.get((seq, layer))
        if run is None or run.shape[2] < stop:
            pages = self.ledger.pages_for(stop)
            grown = torch.empty(
                (2, self.heads, pages * self.ledger.page_size, self.head_dim),
                dtype=self.dtype,
                device=k_nHD.device,
            )
            if run is not None:
                grown[:, :, :at] = run[:, :, :at]
            self._runs[seq, layer] = run = grown
        run[0, :, at:stop] = k_nHD.transpose(0, 1)
        run[1, :, at:stop] = v_nHD.transpose(0, 1)

    def _fork(self, parent: int, child: int) -> None:
        self.ledger.fork(parent, child, self._lengths[parent], share=False)
        for layer in range(self.ledger.num_layers):
            self._runs[child, layer] = self._runs[parent, layer].clone()

    def _drop(self, seq: int) -> None:
        for layer in range(self.ledger.num_layers):
            self._runs.pop((seq, layer), None)


class PagedCache(KVCache):
    """Two pools ``[pages, page_size, H, D]``; a forked sequence shares its full pages."""

    def __init__(
        self,
        ledger: PageLedger,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(ledger, heads, head_dim, dtype)
        shape = (ledger.num_pages, ledger.page_size, heads, head_dim)
        self.k_pool = torch.zeros(shape, dtype=dtype, device=device)
        self.v_pool = torch.zeros(shape, dtype=dtype, device=device)

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Gathered copies (the kernels with paging do without)."""
        length = self._lengths[seq][layer]
        slots = self._slots(seq, layer, 0, length)
        flat = (-1, self.heads, self.head_dim)
        keys = self.k_pool.view(flat).index_select(0, slots)
        values = self.v_pool.view(flat).index_select(0, slots)
        return keys.transpose(0, 1), values.transpose(0, 1)

    def block_table(self, layer: int, seqs: Sequence[int]) -> Tensor:
        """Page ids ``[S, most pages of any]`` (int32, padded with 0) of several sequences."""
        tables = [self.ledger.table(seq, layer) for seq in seqs]
        width = max(len(table) for table in tables)
        padded = [[*table, *[0] * (width - len(table))] for table in tables]
        return torch.tensor(padded, dtype=torch.int32, device=self.k_pool.device)

    def append(self, layer: int, batch: PackedBatch, k_THD: Tensor, v_THD: Tensor) -> None:
        """One scatter for all rows of the step."""
        slots: list[int] = []
        for segment in batch.segments:
            rows = self._lengths.setdefault(segment.seq, [0] * self.ledger.num_layers)
            slots += self._slot_list(segment.seq, layer, rows[layer], rows[layer] + segment.rows)
            rows[layer] += segment.rows
        index = torch.tensor(slots, dtype=torch.int64, device=self.k_pool.device)
        flat = (-1, self.heads, self.head_dim)
        self.k_pool.view(flat).index_copy_(0, index, k_THD)
        self.v_pool.view(flat).index_copy_(0, index, v_THD)

    def _slot_list(self, seq: int, layer: int, start: int, stop: int) -> list[int]:
        size, table = self.ledger.page_size, self.ledger.table(seq, layer)
        return [table[row // size] * size + row % size for row in range(start, stop)]

    def _slots(self, seq: int, layer: int, start: int, stop: int) -> Tensor:
        slots = self._slot_list(seq, layer, start, stop)
        return torch.tensor(slots, dtype=torch.int64, device=self.k_pool.device)

    def _write(self, seq: int, layer: int, at: int, k_nHD: Tensor, v_nHD: Tensor) -> None:
        slots = self._slots(seq, layer, at, at + k_nHD.shape[0])
        flat = (-1, self.heads, self.head_dim)
        self.k_pool.view(flat).index_copy_(0, slots, k_nHD)
        self.v_pool.view(flat).index_copy_(0, slots, v_nHD)

    def _fork(self, parent: int, child: int) -> None:
        copies = self.ledger.fork(parent, child, self._lengths[parent], share=True)
        if copies:
            source = torch.tensor([a for _, a, _ in copies], device=self.k_pool.device)
            target = torch.tensor([b for _, _, b in copies], device=self.k_pool.device)
            self.k_pool[target] = self.k_pool[source]
            self.v_pool[target] = self.v_pool[source]

    def _drop(self, seq: int) -> None:
        """The pages themselves need no clearing: lengths say what is valid."""
