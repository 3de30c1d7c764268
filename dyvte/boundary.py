"""Between two layers: which visual rows stay, which sequences let all of theirs go.

Asks pruning rules and exit policies about the sequences in prefill that still hold visual rows,
and writes what they answered into the traces; the loop does the removing. All that exits read of a
layer comes in one device→host read, and so does all that pruning keeps.

Shapes: T rows, d hidden size, H query heads, K key/value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from dyvte.transfer import Fetch


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
        readings = self._read(asked, traces)
        fired = {i for i in asked if exit_of(self.policies[i]).decide(self.layer, readings.get(i))}
        for index in fired:
            traces[index].exit_layer = self.layer
        return fired

    def pruned(self, traces: Sequence[SequenceTrace]) -> dict[int, list[int]]:
        """By segment that prunes here: indices into its visual rows that stay."""
        staying: dict[int, Tensor] = {}
        for index in _with_image(self.batch):
            rule = prune_of(self.policies[index])
            share = rule.share(self.layer + 1) if rule is not None else None
            if rule is None or share is None:
                continue
            view = self._view(index)
            count = kept_rows(self.batch.segments[index].visual_rows, share)
            staying[index] = rule.keep(view, count)
            traces[index].rule_flops += view.flops
        if not staying:
            return {}
        read = Fetch(*staying.values()).get()
        kept = {index: rows.tolist() for index, rows in zip(staying, read, strict=True)}
        for index, rows in kept.items():
            traces[index].cuts.append(Cut(self.layer + 1, tuple(rows)))
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

    def _read(self, asked: Sequence[int], traces: Sequence[SequenceTrace]) -> dict[int, Reading]:
        """What gates say and policies measure, all of it enqueued before any of it is read."""
        gated, measuring = (self._reading(asked, what) for what in (Reads.GATE, Reads.VIEW))
        if self.model.gates is None:
            gated = []
        sources = [self._gates(gated)] if gated else []
        sources += self._measures(measuring, traces)
        if not sources:
            return {}
        found = [each.tolist() for each in Fetch(*sources).get()]
        readings: dict[int, Reading] = {}
        for index, (keep, leave) in zip(gated, found[0] if gated else [], strict=True):
            readings[index] = reading = GateReading(keep, leave)
            traces[index].readings.append(reading)
            traces[index].gates_asked.append(self.layer)
        for index, values in zip(measuring, found[1:] if gated else found, strict=True):
            readings[index] = measured = tuple(values)
            traces[index].measured.append(measured)
        return readings

    def _gates(self, indices: Sequence[int]) -> Tensor:
        """``[S, 2]``: one gate over all sequences that ask it."""
        assert self.model.gates is not None, "asked of a model without gates"
        status = text_token_status(self.batch, self.batch.hidden, indices)
        return self.model.gates.logits(self.layer, status)

    def _measures(self, indices: Sequence[int], traces: Sequence[SequenceTrace]) -> list[Tensor]:
        """``[F]`` of each: what policies measure themselves on their sequence."""
        measured = []
        for index in indices:
            policy, view = exit_of(self.policies[index]), self._view(index)
            assert isinstance(policy, MeasuringPolicy), "a policy that reads a view has measure()"
            measured.append(policy.measure(self.layer, view))
            traces[index].rule_flops += view.flops
        return measured


def wants_queries(layer: int, batch: PackedBatch, policies: Sequence[Policy]) -> bool:
    """True if a rule will look at the attention of ``layer``."""
    for index in _with_image(batch):
        rule, policy = prune_of(policies[index]), exit_of(policies[index])
        if rule is not None and rule.reads_queries and rule.share(layer + 1) is not None:
            return True
        if policy.reads is Reads.VIEW and policy.may_fire(layer):
            return True
    return False


def reads_rows(layer: int, batch: PackedBatch, policies: Sequence[Policy]) -> bool:
    """True if a rule or a policy will look at what ``layer`` makes of the rows."""
    for index in _with_image(batch):
        rule, policy = prune_of(policies[index]), exit_of(policies[index])
        if rule is not None and rule.share(layer + 1) is not None:
            return True
        if policy.reads is not Reads.NOTHING and policy.may_fire(layer):
            return True
    return False


def _with_image(batch: PackedBatch) -> list[int]:
    """Segments in prefill whose images are still there, among the rows or in the cache."""
    return [
        i
        for i, each in enumerate(batch.segments)
        if each.prefill and (each.visual_rows or each.cached)
    ]
