"""LayerView: one sequence's rows between two layers, as a rule may look at them.

Nothing is computed before it is asked for, attention only for the query rows that are asked for
and never as a full matrix; every product is added to ``flops``, so that a rule's own cost is
accounted where it arises. Knows tensors and the KV cache, no model.

Shapes: T rows of the step, n rows of the sequence, V of them visual, d hidden size, H query
heads, K key/value heads, D head_dim, R query rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dyvte.packing import PackedBatch, Segment
from dyvte.transfer import upload

Projection = Callable[[int, Tensor, slice], tuple[Tensor, Tensor, float]]
"""``(layer, hidden [n, d], their rows in the step) -> (q [H, D] of the last row, k [n, K, D],
scale)`` as that layer will compute them, rotary applied."""


class KeyValues(Protocol):
    """What a view needs of the KV cache."""

    def rows(self, seq: int, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[K, n, D]`` of one (sequence, layer)."""
        ...


@dataclass(slots=True)
class Queries:
    """A ``Tap`` that keeps the queries of the layer that runs."""

    scale: float = 1.0
    _parts: list[Tensor] = field(default_factory=list)

    def take(
        self, layer: int, q_THD: Tensor, batch: PackedBatch, cache: KeyValues, scale: float
    ) -> None:
        """Keep a copy until the next layer: their memory is used again."""
        self._parts.append(q_THD.clone())
        self.scale = scale

    @property
    def q_THD(self) -> Tensor | None:
        """The queries of all rows that have run; None before the first."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0] if self._parts else None

    def select(self, keep: Tensor) -> None:
        """Only the rows ``keep`` are still wanted."""
        if self.q_THD is not None:
            self._parts = [self.q_THD.index_select(0, keep)]


@dataclass(slots=True)
class LayerView:
    """What can be seen of segment ``index`` after ``layer`` (-1: before the first) has run.

    ``batch`` holds the rows after the layer, ``before [T, d]`` what went into it; ``queries`` and
    ``cache`` are the layer's; ``project`` looks into the next layer.
    """

    layer: int
    batch: PackedBatch
    index: int
    cache: KeyValues
    before: Tensor | None = None
    queries: Queries | None = None
    project: Projection | None = None
    flops: int = 0
    _known: dict[tuple[str, bool], Tensor] = field(default_factory=dict, repr=False)

    def once(self, name: str, last_only: bool, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` gives, computed (and its cost counted) at the first asking only."""
        if (name, last_only) not in self._known:
            self._known[name, last_only] = compute()
        return self._known[name, last_only]

    @property
    def segment(self) -> Segment:
        """The sequence's rows in the step."""
        return self.batch.segments[self.index]

    @property
    def rows(self) -> slice:
        """Where they lie in the step."""
        start = self.batch.starts[self.index]
        return slice(start, start + self.segment.rows)

    @property
    def hidden(self) -> Tensor:
        """``[n, d]`` residual stream after the layer."""
        return self.batch.hidden[self.rows]

    @property
    def visual(self) -> Tensor:
        """``[V]`` int64: the visual rows, relative to the sequence."""
        return self.once("visual", False, self._visual)

    def _visual(self) -> Tensor:
        rows = [row for span in self.segment.spans for row in range(span.start, span.stop)]
        return upload(rows, torch.int64, self.batch.hidden.device)

    @property
    def question(self) -> Tensor:
        """``[R]`` int64: the text rows after the last visual span; at least the last row."""
        spans, rows = self.segment.spans, self.segment.rows
        first = min(spans[-1].stop if spans else 0, rows - 1)
        return torch.arange(first, rows, device=self.batch.hidden.device)

    def change(self, rows: Tensor) -> Tensor:
        """``[R]`` float32: how far (L2) the layer moved the residual stream of some rows.

        Free by the FLOPs convention, which leaves norms and additions out.
        """
        assert self.before is not None, "asked before the first layer has run"
        moved = self.hidden[rows].float() - self.before[self.rows][rows].float()
        length: Tensor = torch.linalg.vector_norm(moved, dim=-1)
        return length

    def cached(self) -> tuple[Tensor, Tensor]:
        """Keys and values ``[K, n, D]`` of the layer that has run."""
        keys, values = self.cache.rows(self.segment.seq, self.layer)
        return keys[:, -self.segment.rows :], values[:, -self.segment.rows :]

    def attention(self, last_only: bool = True) -> Tensor:
        """``[H, R, n]`` float32 attention of the last row (R = 1) or of the question's rows."""
        return self.once("attention", last_only, lambda: self._attention(last_only))

    def _attention(self, last_only: bool) -> Tensor:
        assert self.queries is not None, "asked where no queries were kept"
        assert self.queries.q_THD is not None, "asked before the first layer has run"
        chosen = self.question[-1:] if last_only else self.question
        query = self.queries.q_THD[self.rows][chosen]
        return self._attend(query, self.cached()[0], chosen, self.queries.scale)

    def next_attention(self) -> Tensor:
        """``[H, 1, n]`` float32: what the last row will attend to in the next layer."""
        assert self.project is not None, "asked where the next layer cannot be looked into"
        query, keys, scale = self.project(self.layer + 1, self.hidden, self.rows)
        self.flops += 2 * self.batch.hidden.shape[1] * (keys.numel() + query.numel())
        return self._attend(query[None], keys.transpose(0, 1), self.question[-1:], scale)

    def _attend(self, q_RHD: Tensor, k_KnD: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Causal softmax of some query rows over keys ``[K, n, D]``, in float32."""
        count, heads, width = q_RHD.shape
        keys = k_KnD.float()
        grouped = q_RHD.float().transpose(0, 1).reshape(keys.shape[0], -1, width)
        scores = torch.bmm(grouped, keys.transpose(1, 2)).view(heads, count, -1)
        self.flops += 2 * count * heads * width * keys.shape[1]
        scores = scores * scale
        if count > 1:
            columns = torch.arange(keys.shape[1], device=rows.device)
            scores = scores.masked_fill(columns[None, :] > rows[:, None], float("-inf"))
        return scores.softmax(-1)
