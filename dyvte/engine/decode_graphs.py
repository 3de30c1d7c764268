"""Decode steps of fixed shape, replayed as CUDA graphs: no launch is paid for again.

A decode step asks no policy and changes no shape but its number of rows. So the whole forward of
a bucket of rows is captured once, over buffers that stay where they are; a step fills the buffers
in one asynchronous copy each and replays. How many keys a row sees differs per layer and per
sequence (their images left after different layers) and is data, not shape. Rows of the bucket
that no sequence needs write to the pool's spare page and are thrown away.

Off CUDA the same step is computed instead of replayed, which is how it is tested.

Shapes: B rows of a bucket, L layers, W pages of a sequence, A rotary axes, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyvte.kv_cache import PagedCache
from dyvte.models.adapter import ModelAdapter, PromptLayout
from dyvte.streams import Mark
from dyvte.varlen import PageTables, VarlenAttention

log = logging.getLogger("dyvte.engine")

Replay = Callable[[], Tensor]
"""Computes the logits ``[B, V]`` from what the buffers hold now."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """The newest token of a running sequence and its position (the same on every axis)."""

    seq: int
    token: int
    position: int


@dataclass(frozen=True, slots=True)
class PagedRows:
    """One layer's share of a fixed step, as attention sees it (a ``LayerContext``)."""

    cache: PagedCache
    backend: VarlenAttention
    slots: Tensor
    tables: PageTables
    deepstack: None = None
    read: None = None

    def single_runs(self) -> None:
        """Pages are no runs."""

    def attend(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        """Scatter the fresh rows into the pool, then attend over pages."""
        self.cache.scatter(self.slots, k_TKD, v_TKD)
        return self.backend.attend_pages(q_THD, self.cache, self.tables, scale)


class Buffer:
    """A tensor that stays where it is, and where the host writes what goes there next."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.host = torch.zeros(tuple(shape), dtype=dtype, pin_memory=pinned)
        self.device = torch.zeros(tuple(shape), dtype=dtype, device=device) if pinned else self.host
        self.numbers: np.ndarray = self.host.numpy()

    def send(self) -> None:
        """Copy, without waiting: the host must not write again before the copy is done."""
        if self.device is not self.host:
            self.device.copy_(self.host, non_blocking=True)


class FixedStep:
    """The buffers of one bucket and the forward over them."""

    def __init__(
        self,
        model: ModelAdapter,
        cache: PagedCache,
        backend: VarlenAttention,
        rows: int,
        pages: int,
    ) -> None:
        layers, device = cache.ledger.num_layers, cache.k_pool.device
        self.model, self.cache, self.rows, self.layers = model, cache, rows, layers
        probe = model.place(PromptLayout((0,), ()), {}).positions
        axes = () if probe is None else (len(probe),)
        self._sent: Mark | None = None
        self.ids = Buffer([rows], torch.int64, device)
        self.positions = Buffer([*axes, rows], torch.int64, device)
        self.slots = Buffer([layers, rows], torch.int64, device)
        self.used = Buffer([layers, rows], torch.int32, device)
        self.blocks = Buffer([layers, rows, pages], torch.int32, device)
        starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._contexts = [
            PagedRows(
                cache,
                backend,
                self.slots.device[layer],
                PageTables(
                    starts=starts,
                    used=self.used.device[layer],
                    blocks=self.blocks.device[layer],
                    most_rows=1,
                    most_keys=pages * cache.ledger.page_size,
                ),
            )
            for layer in range(layers)
        ]

    def fill(self, rows: Sequence[DecodeRow]) -> None:
        """Lay the next tokens of some sequences into the buffers.

        A step that is run again sequence by sequence fills them before anybody has read a token.
        """
        if self._sent is not None:
            self._sent.wait()
        count, size = len(rows), self.cache.ledger.page_size
        self.ids.numbers[:count] = [row.token for row in rows]
        self.positions.numbers[..., :count] = [row.position for row in rows]
        blocks = self.blocks.numbers
        for index, row in enumerate(rows):
            table = self.cache.blocks(row.seq)
            blocks[:, index, : table.shape[1]] = table
        held = np.array([self.cache.lengths(row.seq) for row in rows], dtype=np.int64)
        held = held.reshape(count, self.layers).T
        page = np.take_along_axis(blocks[:, :count], held[..., None] // size, axis=2)[..., 0]
        self.slots.numbers[:, :count] = page.astype(np.int64) * size + held % size
        self.used.numbers[:, :count] = held + 1
        self._spare(count)
        for buffer in (self.ids, self.positions, self.slots, self.used, self.blocks):
            buffer.send()
        self._sent = Mark(self.cache.k_pool.device)

    def _spare(self, count: int) -> None:
        """Rows that nobody needs: any token, one key, the spare page."""
        spare = self.cache.spare_page
        self.ids.numbers[count:] = 0
        self.positions.numbers[..., count:] = 0
        self.slots.numbers[:, count:] = spare * self.cache.ledger.page_size
        self.used.numbers[:, count:] = 1
        self.blocks.numbers[:, count:, 0] = spare

    def compute(self) -> Tensor:
        """Every layer over the buffers: logits ``[B, V]``. Reads nothing back."""
        hidden = self.model.embed_tokens(self.ids.device)
        rotary = self.model.rotary(hidden, self.positions.device)
        for layer, context in enumerate(self._contexts):
            hidden = self.model.run_layer(layer, hidden, rotary, context)
        return self.model.head(hidden)


class DecodeGraphs:
    """A fixed step for each bucket of rows. Used by the engine's thread alone."""

    def __init__(
        self,
        model: ModelAdapter,
        cache: PagedCache,
        backend: VarlenAttention,
        max_num_seqs: int,
        max_model_len: int,
    ) -> None:
        self.model, self.cache, self.backend = model, cache, backend
        self._pages = cache.ledger.pages_for(max_model_len)
        self.sizes = buckets(max_num_seqs)
        self._ready: dict[int, tuple[FixedStep, Replay]] = {}
        self._pool: Any = None

    @torch.inference_mode()
    def capture(self) -> None:
        """Make every bucket now, largest first: the smaller ones share its memory."""
        for size in reversed(self.sizes):
            self._bucket(size)

    def run(self, rows: Sequence[DecodeRow]) -> Tensor:
        """One token further: logits ``[n, V]``. Mutates the cache as ``append`` would."""
        size = next(each for each in self.sizes if each >= len(rows))
        step, replay = self._bucket(size)
        step.fill(rows)
        logits = replay()[: len(rows)].clone()  # the next replay writes there again
        self.cache.appended([row.seq for row in rows])
        return logits

    def _bucket(self, size: int) -> tuple[FixedStep, Replay]:
        if size not in self._ready:
            step = FixedStep(self.model, self.cache, self.backend, size, self._pages)
            step.fill([])
            self._ready[size] = step, self._replay(step)
        return self._ready[size]

    def _replay(self, step: FixedStep) -> Replay:
        if self.cache.k_pool.device.type != "cuda":
            return step.compute
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside the capture
            step.compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = step.compute()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay


def buckets(max_num_seqs: int) -> list[int]:
    """1, 2, 4, 8, then every eighth, up to ``max_num_seqs``."""
    sizes = [1, 2, 4, *range(8, max_num_seqs, 8)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]
