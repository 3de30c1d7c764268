"""What every cache of keys and values can do; how many rows each holds, whatever they lie in.

Shapes: T rows of a step, H key/value heads, D head_dim, n rows of one sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dyvte.packing import PackedBatch
from dyvte.pages import PageLedger


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
