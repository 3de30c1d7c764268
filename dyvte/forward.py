"""THE layer loop: the server, offline generation, training and every parity test run this one.

Layer by layer over packed rows: attend, ask the policies of the sequences in prefill, let the
visual rows of those that fired leave. State is passed, never ambient. The loop can be cut
between layers (``start``, ``advance``, ``finish``), so that a long prefill lets decodes step in
between; ``forward`` runs it whole.

Shapes: T rows, d hidden size, S segments, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend, StepContext
from dyvte.exits.policy import ExitPolicy, GateReading
from dyvte.exits.status import text_token_status
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch


@dataclass(slots=True)
class SequenceTrace:
    """What happened to one segment: rows per layer run, gates asked, where its image left."""

    tokens_per_layer: list[int] = field(default_factory=list)
    exit_layer: int | None = None
    readings: list[GateReading] = field(default_factory=list)
    gates_asked: list[int] = field(default_factory=list)

    @property
    def gates_nan(self) -> int:
        """Gates that answered NaN."""
        return sum(reading.is_nan for reading in self.readings)


@dataclass(slots=True)
class LayerLoop:
    """The loop's state between layers. ``layer`` is the next one to run."""

    batch: PackedBatch
    rotary: tuple[Tensor, Tensor]
    policies: list[ExitPolicy]
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
    policies: Sequence[ExitPolicy],
    attention: AttentionBackend,
) -> ForwardOutput:
    """Run every layer over ``batch``; ``policies`` holds one per segment.

    Mutates ``cache`` (appends each layer's rows). Returns logits in the model's dtype.
    """
    loop = start(model, batch, policies)
    advance(model, loop, cache, attention, model.decoder.num_layers)
    return finish(model, loop)


def start(model: ModelAdapter, batch: PackedBatch, policies: Sequence[ExitPolicy]) -> LayerLoop:
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
        for trace, segment in zip(loop.traces, loop.batch.segments, strict=True):
            trace.tokens_per_layer.append(segment.rows)
        context = StepContext(layer, loop.batch, cache, attention)
        hidden = model.run_layer(layer, loop.batch.hidden, loop.rotary, context)
        loop.batch = loop.batch.with_hidden(hidden)
        leaving = _decide(model, loop, layer)
        if leaving:
            _follow(loop, *loop.batch.drop_visual(leaving))
        loop.layer += 1


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


def _decide(model: ModelAdapter, loop: LayerLoop, layer: int) -> set[int]:
    """Segments whose visual rows leave after ``layer``."""
    asked = [
        index
        for index, (segment, policy) in enumerate(
            zip(loop.batch.segments, loop.policies, strict=True)
        )
        if segment.prefill and segment.spans and policy.may_fire(layer)
    ]
    readings = _read_gates(model, loop, layer, asked)
    leaving = set()
    for index in asked:
        if loop.policies[index].decide(layer, readings.get(index)):
            loop.traces[index].exit_layer = layer
            leaving.add(index)
    return leaving


def _read_gates(
    model: ModelAdapter, loop: LayerLoop, layer: int, asked: Sequence[int]
) -> dict[int, GateReading]:
    """One gate over all sequences that ask it: one device→host read a gated layer."""
    indices = [index for index in asked if loop.policies[index].reads_gates]
    if not indices or model.gates is None:
        return {}
    began = time.perf_counter()
    status = text_token_status(loop.batch, loop.batch.hidden, indices)
    logits: list[list[float]] = model.gates.logits(layer, status).tolist()
    loop.gate_seconds += time.perf_counter() - began
    readings = {}
    for index, (keep, leave) in zip(indices, logits, strict=True):
        readings[index] = GateReading(keep, leave)
        loop.traces[index].readings.append(readings[index])
        loop.traces[index].gates_asked.append(layer)
    return readings
