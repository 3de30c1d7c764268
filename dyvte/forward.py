"""THE layer loop: the server, offline generation, training and every parity test run this one.

Layer by layer over packed rows: attend, let each pruning rule thin the visual rows of its
sequence, ask the policies of the sequences in prefill, let the visual rows of those that fired
leave. State is passed, never ambient. The loop can be cut between layers (``start``,
``advance``, ``finish``), so that a long prefill lets decodes step in between; ``forward`` runs it
whole.

Shapes: T rows, d hidden size, S segments, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend, StepContext
from dyvte.boundary import Boundary, wants_queries
from dyvte.exits.policy import Policy
from dyvte.exits.view import Queries
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch
from dyvte.trace import SequenceTrace


@dataclass(slots=True)
class LayerLoop:
    """The loop's state between layers. ``layer`` is the next one to run."""

    batch: PackedBatch
    rotary: tuple[Tensor, Tensor]
    policies: list[Policy]
    traces: list[SequenceTrace]
    layer: int = 0
    gate_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ForwardOutput:
    """``logits [S, V]`` of each segment's last row, and the traces in segment order."""

    logits: Tensor
    traces: Sequence[SequenceTrace]
    gate_seconds: float = 0.0


def forward(
    model: ModelAdapter,
    batch: PackedBatch,
    cache: KVCache,
    policies: Sequence[Policy],
    attention: AttentionBackend,
) -> ForwardOutput:
    """Run every layer over ``batch``; ``policies`` holds one per segment.

    Mutates ``cache`` (appends each layer's rows). Returns logits in the model's dtype.
    """
    loop = start(model, batch, policies)
    advance(model, loop, cache, attention, model.decoder.num_layers)
    return finish(model, loop)


def start(model: ModelAdapter, batch: PackedBatch, policies: Sequence[Policy]) -> LayerLoop:
    """Begin: rotary embeddings for the rows' positions, empty traces."""
    if len(policies) != len(batch.segments):
        raise ValueError(
            f"{len(batch.segments)} segments need as many policies, not {len(policies)}"
        )
    rotary = model.rotary(batch.hidden, batch.positions)
    return LayerLoop(batch, rotary, list(policies), [SequenceTrace() for _ in batch.segments])


def advance(
    model: ModelAdapter, loop: LayerLoop, cache: KVCache, attention: AttentionBackend, stop: int
) -> None:
    """Run the layers ``loop.layer .. stop-1``. Mutates ``loop`` and ``cache``."""
    while loop.layer < stop:
        layer = loop.layer
        if layer == 0:
            _prune(loop, Boundary(-1, model, loop.batch, loop.rotary, loop.policies, cache))
        for trace, segment in zip(loop.traces, loop.batch.segments, strict=True):
            trace.tokens_per_layer.append(segment.rows)
        queries = Queries() if wants_queries(layer, loop.batch, loop.policies) else None
        context = StepContext(layer, loop.batch, cache, attention, queries)
        before = loop.batch.hidden
        hidden = model.run_layer(layer, before, loop.rotary, context)
        loop.batch = loop.batch.after(layer, hidden)
        loop.layer += 1
        _let_leave(
            loop,
            Boundary(layer, model, loop.batch, loop.rotary, loop.policies, cache, before, queries),
        )


def _let_leave(loop: LayerLoop, boundary: Boundary) -> None:
    """Ask the policies, then prune, then exit: an exit drops what pruning left."""
    began = time.perf_counter()
    leaving = boundary.leaving(loop.traces)
    loop.gate_seconds += time.perf_counter() - began if boundary.asked else 0.0
    _prune(loop, boundary)
    if leaving:
        _follow(loop, *loop.batch.drop_visual(leaving))


def _prune(loop: LayerLoop, boundary: Boundary) -> None:
    kept = boundary.pruned(loop.traces)
    if kept:
        _follow(loop, *loop.batch.keep_visual(kept))


def drop(loop: LayerLoop, index: int) -> None:
    """Take one sequence out between two layers (its request was aborted). Mutates ``loop``."""
    _follow(loop, *loop.batch.drop_segment(index))
    del loop.policies[index], loop.traces[index]


def _follow(loop: LayerLoop, batch: PackedBatch, keep: Tensor) -> None:
    """Everything with a row dimension follows the rows that stay."""
    cos, sin = loop.rotary
    loop.rotary = (cos.index_select(-2, keep), sin.index_select(-2, keep))
    loop.batch = batch


def finish(model: ModelAdapter, loop: LayerLoop) -> ForwardOutput:
    """Norm and head over each segment's last row."""
    last = torch.tensor(loop.batch.last_rows, device=loop.batch.hidden.device)
    logits = model.head(loop.batch.hidden.index_select(0, last))
    return ForwardOutput(logits, loop.traces, loop.gate_seconds)
