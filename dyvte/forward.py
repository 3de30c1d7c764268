"""THE layer loop: the server, offline generation, training and every parity test run this one.

Layer by layer over packed rows: attend, let each pruning rule thin the visual rows of its
sequence, ask the policies of the sequences in prefill, let the visual rows of those that fired
leave. State is passed, never ambient. The loop can be cut between layers (``start``,
``advance``, ``finish``) and between rows of a layer (``advance_rows``), so that a long prefill
lets decodes step in between; ``forward`` runs it whole. Rules are asked when a layer's last row
has run and see the whole layer, however it was cut. Of the last layer only the rows that predict
a token are read: where nobody asks for others, it may compute those alone (``read_all``).

Shapes: T rows, d hidden size, S segments, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend, StepContext, WatchesRows
from dyvte.boundary import Boundary, reads_rows, wants_queries
from dyvte.exits.policy import Policy
from dyvte.exits.view import Queries
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch, Part
from dyvte.prefix import Passage
from dyvte.streams import Lap
from dyvte.trace import SequenceTrace
from dyvte.transfer import upload


@dataclass(slots=True)
class Begun:
    """A layer of which the first ``rows`` rows have run: what came out, and their queries."""

    queries: Queries | None = None
    out: list[Tensor] = field(default_factory=list)
    rows: int = 0


@dataclass(slots=True)
class LayerLoop:
    """The loop's state. ``layer`` is the next one to run, or to run on if it has ``begun``.

    ``passages`` has one per segment, None where no rows are taken or remembered. Without
    ``read_all`` nobody reads what the last layer makes of other rows than each segment's last.
    """

    batch: PackedBatch
    rotary: tuple[Tensor, Tensor]
    policies: list[Policy]
    traces: list[SequenceTrace]
    passages: list[Passage | None]
    layer: int = 0
    gates: list[Lap] = field(default_factory=list)
    begun: Begun | None = None
    read_all: bool = True

    @property
    def left(self) -> list[tuple[int, int]]:
        """``(seq, rows)`` of each segment: rows that the layer has still to run."""
        done = self.begun.rows if self.begun else 0
        stops = accumulate(self.batch.lengths)
        return [
            (segment.seq, min(segment.rows, max(0, stop - done)))
            for segment, stop in zip(self.batch.segments, stops, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class ForwardOutput:
    """``logits [S, V]`` of each segment's last row, and the traces in segment order.

    ``gates`` are the laps that deciding took, a layer each.
    """

    logits: Tensor
    traces: Sequence[SequenceTrace]
    gates: Sequence[Lap] = ()


def forward(
    model: ModelAdapter,
    batch: PackedBatch,
    cache: KVCache,
    policies: Sequence[Policy],
    attention: AttentionBackend,
    passages: Sequence[Passage | None] = (),
) -> ForwardOutput:
    """Run every layer over ``batch``; ``policies`` holds one per segment.

    ``passages`` may hold one for each of the first segments.

    Mutates ``cache`` (appends each layer's rows). Returns logits in the model's dtype.
    """
    loop = start(model, batch, policies, passages)
    advance(model, loop, cache, attention, model.decoder.num_layers)
    return finish(model, loop)


def start(
    model: ModelAdapter,
    batch: PackedBatch,
    policies: Sequence[Policy],
    passages: Sequence[Passage | None] = (),
    read_all: bool = True,
) -> LayerLoop:
    """Begin: rotary embeddings for the rows' positions, empty traces.

    ``passages`` may end early: the segments after it have none. ``read_all``: see ``LayerLoop``.
    """
    if len(policies) != len(batch.segments):
        raise ValueError(
            f"{len(batch.segments)} segments need as many policies, not {len(policies)}"
        )
    rotary = model.rotary(batch.hidden, batch.positions)
    traces = [SequenceTrace() for _ in batch.segments]
    none = [None] * (len(traces) - len(passages))
    return LayerLoop(batch, rotary, list(policies), traces, [*passages, *none], read_all=read_all)


def advance(
    model: ModelAdapter, loop: LayerLoop, cache: KVCache, attention: AttentionBackend, stop: int
) -> None:
    """Run the layers ``loop.layer .. stop-1``. Mutates ``loop`` and ``cache``."""
    while loop.layer < stop:
        advance_rows(model, loop, cache, attention, len(loop.batch.hidden))


def advance_rows(
    model: ModelAdapter, loop: LayerLoop, cache: KVCache, attention: AttentionBackend, rows: int
) -> None:
    """Run the next ``rows`` rows of layer ``loop.layer``, or what is left of it, if that is less.

    Its exits and cuts come with its last row. Mutates ``loop`` and ``cache``.
    """
    layer = loop.layer
    if loop.begun is None:
        if layer == 0:
            _prune(loop, Boundary(-1, model, loop.batch, loop.rotary, loop.policies, cache))
        _attach(loop, cache)
        wanted = wants_queries(layer, loop.batch, loop.policies)
        loop.begun = Begun(Queries() if wanted else None)
    begun = loop.begun
    stop = min(begun.rows + rows, len(loop.batch.hidden))
    if stop > begun.rows:  # else the rows that were left belonged to a sequence that was dropped
        begun.out.append(_run_rows(model, loop, cache, attention, begun, stop))
        begun.rows = stop
    if stop == len(loop.batch.hidden):
        _end_layer(model, loop, cache, begun)


def _run_rows(
    model: ModelAdapter,
    loop: LayerLoop,
    cache: KVCache,
    attention: AttentionBackend,
    begun: Begun,
    stop: int,
) -> Tensor:
    """The layer's rows from the first that has not run up to ``stop``."""
    batch, rotary = loop.batch.rows(begun.rows, stop), loop.rotary
    if batch is not loop.batch:
        cos, sin = rotary
        rotary = (cos[..., begun.rows : stop, :], sin[..., begun.rows : stop, :])
    last = loop.layer == model.decoder.num_layers - 1
    narrow = last and not isinstance(attention, WatchesRows)
    reads = _read_rows(loop, begun, stop) if narrow else None
    context = StepContext(loop.layer, batch, cache, attention, begun.queries, reads)
    return model.run_layer(loop.layer, batch.hidden, rotary, context)


def _read_rows(loop: LayerLoop, begun: Begun, stop: int) -> list[int] | None:
    """Of a piece of the last layer the rows that are read; None if all are."""
    # Queries that are kept are those of all rows, even if who wanted them has been dropped since.
    if begun.queries is not None or loop.read_all:
        return None
    if reads_rows(loop.layer, loop.batch, loop.policies):
        return None
    return [row - begun.rows for row in loop.batch.last_rows if begun.rows <= row < stop]


def _end_layer(model: ModelAdapter, loop: LayerLoop, cache: KVCache, begun: Begun) -> None:
    """All rows of the layer have run: note it, and let leave what leaves."""
    layer, before, loop.begun = loop.layer, loop.batch.hidden, None
    loop.batch = loop.batch.after(layer, _joined(begun.out))
    loop.layer += 1
    if not any(segment.prefill for segment in loop.batch.segments):
        return  # nothing leaves in decode steps
    returning = _let_leave(
        loop,
        Boundary(
            layer, model, loop.batch, loop.rotary, loop.policies, cache, before, begun.queries
        ),
    )
    if returning and loop.layer < model.decoder.num_layers:
        loop.batch = loop.batch.insert(returning)
        loop.rotary = model.rotary(loop.batch.hidden, loop.batch.positions)


def _attach(loop: LayerLoop, cache: KVCache) -> None:
    """Before the layer: rows that are known already, and the count of all of them."""
    for trace, segment, passage in zip(
        loop.traces, loop.batch.segments, loop.passages, strict=True
    ):
        cached = 0
        if passage is not None and passage.source is not None:
            passage.attach(cache, loop.layer, segment)
            cached = passage.cached(loop.layer)
            trace.cached_per_layer.append(cached)
        trace.tokens_per_layer.append(cached + segment.rows)


def _let_leave(loop: LayerLoop, boundary: Boundary) -> dict[int, Part]:
    """Ask the policies, then prune, then exit: an exit drops what pruning left.

    Returns rows that come back, by segment.
    """
    leaving: set[int] = set()
    if boundary.asked:
        loop.gates.append(Lap(loop.batch.hidden.device))
        leaving = boundary.leaving(loop.traces)
        loop.gates[-1].stop()
    _prune(loop, boundary)
    returning = _returning(loop, boundary.layer, leaving)
    if leaving:
        _follow(loop, *loop.batch.drop_visual(leaving))
    return returning


def _returning(loop: LayerLoop, layer: int, leaving: Collection[int]) -> dict[int, Part]:
    """Let the passages note what leaves, and hear what comes back."""
    parts: dict[int, Part] = {}
    batch = loop.batch
    for index, passage in enumerate(loop.passages):
        if passage is None:
            continue
        start, rows = batch.starts[index], batch.segments[index].rows
        hidden, added = batch.hidden[start : start + rows], batch.deepstack is not None
        part = passage.after(layer, hidden, index in leaving, added)
        if part is not None:
            parts[index] = part
    return parts


def _prune(loop: LayerLoop, boundary: Boundary) -> None:
    kept = boundary.pruned(loop.traces)
    if kept:
        _follow(loop, *loop.batch.keep_visual(kept))


def drop(loop: LayerLoop, index: int) -> None:
    """Take one sequence out, between two layers or two rows of one (its request was aborted).

    Mutates ``loop``, which must hold others.
    """
    left = loop.left[index][1]
    gone = loop.batch.segments[index].rows - left
    batch, keep = loop.batch.drop_segment(index)
    _follow(loop, batch, keep)
    del loop.policies[index], loop.traces[index], loop.passages[index]
    if loop.begun is not None:
        _thin(loop.begun, keep[: loop.begun.rows - gone])


def _thin(begun: Begun, keep: Tensor) -> None:
    """Of the rows that have run, only some are still wanted."""
    begun.out, begun.rows = [_joined(begun.out).index_select(0, keep)], len(keep)
    if begun.queries is not None:
        begun.queries.select(keep)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _follow(loop: LayerLoop, batch: PackedBatch, keep: Tensor) -> None:
    """Everything with a row dimension follows the rows that stay."""
    cos, sin = loop.rotary
    loop.rotary = (cos.index_select(-2, keep), sin.index_select(-2, keep))
    loop.batch = batch


def finish(model: ModelAdapter, loop: LayerLoop) -> ForwardOutput:
    """Norm and head over each segment's last row."""
    last = upload(loop.batch.last_rows, torch.int64, loop.batch.hidden.device)
    logits = model.head(loop.batch.hidden.index_select(0, last))
    return ForwardOutput(logits, loop.traces, loop.gates)
