"""Rows in one contiguous run per (sequence, layer), which CPU attention reads in place.

Shapes: T rows of a step, H key/value heads, D head_dim, n rows of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyvte.kernels import ops
from dyvte.kernels.ops import Run
from dyvte.kv_cache.base import KVCache
from dyvte.packing import PackedBatch
from dyvte.pages import PageLedger


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
        runs = self.grown(layer, batch)
        if k_THD.device.type == "cpu" and ops.computes(self.dtype):
            ops.append_single(k_THD, v_THD, runs)
            return
        both = torch.stack((k_THD, v_THD))
        for index, segment in enumerate(batch.segments):
            last = self._lengths[segment.seq][layer] - 1
            self._runs[segment.seq, layer].run[:, :, last] = both[:, index]

    def grown(self, layer: int, batch: PackedBatch) -> list[Run]:
        """One row more of each sequence of a step: who calls writes them, last of their runs."""
        device = batch.hidden.device
        return [self._one_more(each.seq, layer, device) for each in batch.segments]

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
        """The run, large enough for ``stop`` rows; its first ``at`` are kept.

        The second piece of a prefill makes room for all pieces: each would move those before it.
        """
        held = self._runs.get((seq, layer))
        if held is not None and held.capacity >= stop:
            return held
        pieces = held is not None and stop - at > 1
        grown = self._new(self.ledger.capacity(seq, layer) if pieces else stop, device)
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
