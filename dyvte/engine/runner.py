"""Where plans become tensors: embeds prompts, packs rows, runs the layer loop.

Knows sequences and the model; knows neither queues nor threads nor what a token means.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte import forward as loop
from dyvte.attention import AttentionBackend
from dyvte.engine.decode_graphs import DecodeGraphs, DecodeRow
from dyvte.engine.image_cache import ImageCache
from dyvte.engine.pace import Pace
from dyvte.engine.pictures import Pictures, Seen
from dyvte.engine.pieces import rows_within, work_of
from dyvte.engine.scoring import score_prompts
from dyvte.engine.sequence import Sequence
from dyvte.exits.policy import ExitPolicy, Off, Reads, exit_of
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import Part, Segment, pack
from dyvte.prefix import Passage, Prefix
from dyvte.trace import SequenceTrace


@dataclass(slots=True)
class Prefill:
    """A prefill group in flight: its images, then its layers, piece by piece.

    ``loop`` is None until its images are encoded; ``flops`` is what all of it has run so far.
    """

    sequences: list[Sequence]
    pictures: Pictures
    loop: loop.LayerLoop | None = None
    seconds: float = 0.0
    flops: int = 0
    row_layers: int = 0

    @property
    def gate_seconds(self) -> float:
        """Seconds of it in exit gates."""
        return self.loop.gate_seconds if self.loop else 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """One sequence's next-token logits ``[V]`` and, after a prefill, its trace and passage."""

    sequence: Sequence
    logits: Tensor
    trace: SequenceTrace | None = None
    passage: Passage | None = None


class Runner:
    """The model, its cache and its attention, driven a step at a time."""

    def __init__(
        self,
        model: ModelAdapter,
        cache: KVCache,
        attention: AttentionBackend,
        pace: Pace,
        images: ImageCache | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.attention = attention
        self.pace = pace
        self.images = ImageCache(0) if images is None else images
        self.graphs: DecodeGraphs | None = None

    def open(self, sequences: Seq[Sequence]) -> Prefill:
        """Begin with a group: find what its prompts show in the cache, or note it to be encoded.

        Those that take the rows of their images from another sequence need none.
        """
        owners = {id(each.owner): each.owner for each in sequences if each.source is None}
        return Prefill(list(sequences), Pictures(self.model, self.images, [*owners.values()]))

    def encode(self, prefill: Prefill, work: int | None) -> Seen:
        """Run the vision tower over as many of a group's images as ``work`` allows, or one."""
        seen = prefill.pictures.encode(self.pace, work)
        prefill.flops += seen.flops
        return seen

    def whole(self, prefill: Prefill) -> int:
        """Work of all layers of a group: what it may come to, never less than what it will."""
        return sum(self._whole(each) for each in prefill.sequences)

    def _whole(self, sequence: Sequence) -> int:
        """If nothing leaves; of rows that are there already, as if all that may come back did."""
        shape, rows, source = self.model.decoder, sequence.rows, sequence.source
        if source is None:
            return shape.num_layers * shape.layer(rows, rows)
        prefix, leave, known = source.prefix, exit_of(sequence.policy), source.depth + 1
        text = rows - prefix.stop + len(prefix.between)
        above = rows - prefix.start
        if source.images is None or any(_certain(leave, layer) for layer in range(known)):
            above = text
        return known * shape.layer(text, rows) + (shape.num_layers - known) * shape.layer(
            above, rows
        )

    def advance(self, prefill: Prefill, work: int | None, must: bool) -> list[Output]:
        """Run rows and layers of a group that cost no more than ``work`` (None: all that is left).

        With ``must`` a piece runs however small ``work`` is. The outputs come with the last layer.
        """
        began = time.perf_counter()
        state = prefill.loop or self._begin(prefill)
        spent = 0
        while state.layer < self.model.decoder.num_layers:
            left = work if work is None else work - spent
            rows, cost = self._next_piece(state, left, must and not spent)
            if not rows:
                break
            loop.advance_rows(self.model, state, self.cache, self.attention, rows)
            spent += cost
            prefill.row_layers += rows
        outputs: list[Output] = []
        if state.layer == self.model.decoder.num_layers:
            score_prompts(self.model, state.batch, prefill.sequences)
            out = loop.finish(self.model, state)
            outputs = _outputs(prefill.sequences, out, state.passages)
        seconds = self._seconds_since(began)
        self.pace.layers.learn(spent, seconds)
        prefill.seconds += seconds
        prefill.flops += spent
        return outputs

    def _begin(self, prefill: Prefill) -> loop.LayerLoop:
        """Embed and pack the prompts of a group."""
        batch = pack([self._prompt(each) for each in prefill.sequences])
        policies = [each.policy for each in prefill.sequences]
        passages = [self._passage(each) for each in prefill.sequences]
        prefill.loop = loop.start(self.model, batch, policies, passages)
        return prefill.loop

    def _next_piece(self, state: loop.LayerLoop, work: int | None, must: bool) -> tuple[int, int]:
        """How many of the layer's rows run next, and what they cost."""
        shape, least = self.model.decoder, self.pace.least
        left = [(rows, self.cache.length(seq, state.layer)) for seq, rows in state.left]
        if state.begun is None:  # what is known already is put there when the layer begins
            known = [each.cached(state.layer) if each else 0 for each in state.passages]
            left = [(rows, keys) for (rows, _), keys in zip(left, known, strict=True)]
        if work is None:
            rows = sum(count for count, _ in left)
        else:
            rows = rows_within(shape, left, work, least, must)
        return rows, work_of(shape, left, rows, least)

    def _seconds_since(self, began: float) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - began

    def leave(self, prefill: Prefill, sequence: Sequence) -> None:
        """Take an aborted sequence out of a group in flight."""
        index = prefill.sequences.index(sequence)
        if prefill.loop is not None and len(prefill.sequences) > 1:
            loop.drop(prefill.loop, index)
        del prefill.sequences[index]
        if all(each.owner is not sequence.owner for each in prefill.sequences):
            prefill.pictures.leave(sequence.owner)

    def run(self, prefills: Seq[Sequence], decodes: Seq[Sequence]) -> tuple[list[Output], float]:
        """Prefills and decodes in one packed forward; also the seconds spent in gates.

        Decodes alone go through the graphs where there are some.
        """
        if self.graphs is not None and not prefills:
            logits = self.graphs.run([_decode_row(each) for each in decodes])
            return [Output(*each) for each in zip(decodes, logits, strict=True)], 0.0
        began = time.perf_counter()
        parts = [self._prompt(each) for each in prefills]
        if decodes:
            parts += self._next_rows(decodes)
        policies = [each.policy for each in prefills] + [Off() for _ in decodes]
        passages = [self._passage(each) for each in prefills]
        state = loop.start(self.model, pack(parts), policies, passages)
        loop.advance(self.model, state, self.cache, self.attention, self.model.decoder.num_layers)
        if prefills:
            self._learn(state, len(prefills), len(decodes), began)
        score_prompts(self.model, state.batch, prefills)
        out = loop.finish(self.model, state)
        return _outputs([*prefills, *decodes], out, passages), out.gate_seconds

    def _learn(self, state: loop.LayerLoop, prefills: int, decodes: int, began: float) -> None:
        """The pace of a whole prefill; keys of the decodes beside it hardly count."""
        shape = self.model.decoder
        ran = state.traces[:prefills]
        work = sum(shape.prefill(trace.tokens_per_layer) for trace in ran)
        work -= sum(shape.spared(trace.tokens_per_layer, trace.cached_per_layer) for trace in ran)
        work += shape.num_layers * shape.linear(decodes)
        self.pace.layers.learn(work, self._seconds_since(began))

    def _prompt(self, sequence: Sequence) -> Part:
        """All rows of a prompt that must run, with what was generated before a preemption."""
        owner, source = sequence.owner, sequence.source
        if source is not None:
            stop = source.prefix.stop
            return self.model.rest(sequence.seq, owner.layout, stop, sequence.token_ids)
        rows = owner.image_rows or []
        return self.model.part(sequence.seq, owner.layout, rows, sequence.token_ids)

    def _passage(self, sequence: Sequence) -> Passage | None:
        """Its way through the layers, if it takes or leaves rows for others."""
        layout = sequence.owner.layout
        if sequence.owner.prefix_key is None:
            return None
        prefix = Prefix.of(layout.spans)
        positions = self.model.positions(layout, prefix.start, prefix.stop)
        return Passage(prefix, positions, sequence.source)

    def _next_rows(self, sequences: Seq[Sequence]) -> list[Part]:
        """The newest token of each running sequence, embedded in one look-up."""
        rows = self._embed([each.token_ids[-1] for each in sequences])
        return [
            Part(
                Segment(each.seq, 1),
                rows[i : i + 1],
                self.model.positions(each.owner.layout, each.rows - 1, each.rows),
            )
            for i, each in enumerate(sequences)
        ]

    def _embed(self, token_ids: Seq[int]) -> Tensor:
        ids = torch.tensor(list(token_ids), dtype=torch.int64, device=self.model.device)
        return self.model.embed_tokens(ids)


def _certain(leave: ExitPolicy, layer: int) -> bool:
    """True if the images leave after ``layer`` whatever is read there."""
    return leave.reads is Reads.NOTHING and leave.may_fire(layer) and leave.decide(layer, None)


def _decode_row(sequence: Sequence) -> DecodeRow:
    """Generated tokens have no image, so every axis counts alike."""
    position = sequence.rows - 1 + sequence.owner.layout.delta
    return DecodeRow(sequence.seq, sequence.token_ids[-1], position)


def _outputs(
    sequences: Seq[Sequence], out: loop.ForwardOutput, passages: Seq[Passage | None]
) -> list[Output]:
    """``passages`` has one per prefill; decodes follow."""
    outputs = []
    for i, (sequence, logits) in enumerate(zip(sequences, out.logits, strict=True)):
        prefill = i < len(passages)
        trace, passage = (out.traces[i], passages[i]) if prefill else (None, None)
        outputs.append(Output(sequence, logits, trace, passage))
    return outputs
