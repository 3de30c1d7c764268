"""Between two layers: which visual rows stay, which sequences let all of theirs go.

Asks pruning rules and exit policies about the sequences in prefill that still hold visual rows,
and writes what they answered into the traces; the loop does the removing. Several sequences that
ask gates, or that measure, cost one device→host read together.

Shapes: T rows, d hidden size, H query heads, K key/value heads, D head_dim.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.exits.policy import (
    GateReading,
    MeasuringPolicy,
    Policy,
    Reading,
    Reads,
    exit_of,
    prune_of,
)
from dyvte.exits.prune.rule import Cut, kept_rows
from dyvte.exits.status import text_token_status
from dyvte.exits.view import LayerView, Queries
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch
from dyvte.trace import SequenceTrace


@dataclass(frozen=True, slots=True)
class Boundary:
    """After ``layer`` has run (-1: before the first) and before the next one does.

    ``batch`` holds the rows after the layer, ``before [T, d]`` what went into it, ``queries``
    its queries where a rule wanted them.
    """

    layer: int
    model: ModelAdapter
    batch: PackedBatch
    rotary: tuple[Tensor, Tensor]
    policies: Sequence[Policy]
    cache: KVCache
    before: Tensor | None = None
    queries: Queries | None = None

    @property
    def asked(self) -> list[int]:
        """Segments whose exit policy may fire here."""
        policies, layer = self.policies, self.layer
        return [i for i in _with_image(self.batch) if exit_of(policies[i]).may_fire(layer)]

    def leaving(self, traces: Sequence[SequenceTrace]) -> set[int]:
        """Segments whose visual rows leave after ``layer``. Mutates ``traces``."""
        asked = self.asked
        readings = self._read_gates(asked, traces) | self._measure(asked, traces)
        fired = {i for i in asked if exit_of(self.policies[i]).decide(self.layer, readings.get(i))}
        for index in fired:
            traces[index].exit_layer = self.layer
        return fired

    def pruned(self, traces: Sequence[SequenceTrace]) -> dict[int, list[int]]:
        """By segment that prunes here: indices into its visual rows that stay."""
        kept: dict[int, list[int]] = {}
        for index in _with_image(self.batch):
            rule = prune_of(self.policies[index])
            share = rule.share(self.layer + 1) if rule is not None else None
            if rule is None or share is None:
                continue
            view = self._view(index)
            count = kept_rows(self.batch.segments[index].visual_rows, share)
            kept[index] = rule.keep(view, count).tolist()
            traces[index].rule_flops += view.flops
            traces[index].cuts.append(Cut(self.layer + 1, tuple(kept[index])))
        return kept

    def _view(self, index: int) -> LayerView:
        """One segment as a rule may look at it."""
        cos, sin = self.rotary

        def project(layer: int, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor, float]:
            rotary = (cos[..., rows, :], sin[..., rows, :])
            return self.model.last_query_and_keys(layer, hidden, rotary)

        return LayerView(
            self.layer, self.batch, index, self.cache, self.before, self.queries, project
        )

    def _reading(self, asked: Sequence[int], what: Reads) -> list[int]:
        return [index for index in asked if exit_of(self.policies[index]).reads is what]

    def _read_gates(
        self, asked: Sequence[int], traces: Sequence[SequenceTrace]
    ) -> dict[int, Reading]:
        """One gate over all sequences that ask it."""
        indices = self._reading(asked, Reads.GATE)
        if not indices or self.model.gates is None:
            return {}
        status = text_token_status(self.batch, self.batch.hidden, indices)
        logits: list[list[float]] = self.model.gates.logits(self.layer, status).tolist()
        readings: dict[int, Reading] = {}
        for index, (keep, leave) in zip(indices, logits, strict=True):
            readings[index] = reading = GateReading(keep, leave)
            traces[index].readings.append(reading)
            traces[index].gates_asked.append(self.layer)
        return readings

    def _measure(self, asked: Sequence[int], traces: Sequence[SequenceTrace]) -> dict[int, Reading]:
        """What policies measure themselves on their sequence."""
        indices = self._reading(asked, Reads.VIEW)
        measured = []
        for index in indices:
            policy, view = exit_of(self.policies[index]), self._view(index)
            assert isinstance(policy, MeasuringPolicy), "a policy that reads a view has measure()"
            measured.append(policy.measure(self.layer, view))
            traces[index].rule_flops += view.flops
        if not measured:
            return {}
        values = torch.cat(measured).tolist()
        ends = itertools.accumulate(len(each) for each in measured)
        readings: dict[int, Reading] = {}
        for index, each, end in zip(indices, measured, ends, strict=True):
            readings[index] = reading = tuple(values[end - len(each) : end])
            traces[index].measured.append(reading)
        return readings


def wants_queries(layer: int, batch: PackedBatch, policies: Sequence[Policy]) -> bool:
    """True if a rule will look at the attention of ``layer``."""
    for index in _with_image(batch):
        rule, policy = prune_of(policies[index]), exit_of(policies[index])
        if rule is not None and rule.reads_queries and rule.share(layer + 1) is not None:
            return True
        if policy.reads is Reads.VIEW and policy.may_fire(layer):
            return True
    return False


def _with_image(batch: PackedBatch) -> list[int]:
    """Segments in prefill whose images are still there, among the rows or in the cache."""
    return [
        i
        for i, each in enumerate(batch.segments)
        if each.prefill and (each.visual_rows or each.cached)
    ]
