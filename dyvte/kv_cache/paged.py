"""Rows in fixed pages of one pool, which CUDA kernels read through block tables.

Shapes: T rows of a step, H key/value heads, D head_dim, S sequences, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dyvte.kv_cache.base import KVCache
from dyvte.packing import PackedBatch
from dyvte.pages import PageLedger
from dyvte.transfer import moved, upload


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
