"""Where plans become tensors: embeds prompts, packs rows, runs the layer loop.

Knows sequences and the model; knows neither queues nor threads nor what a token means.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte import forward as loop
from dyvte.attention import AttentionBackend
from dyvte.engine.decode_graphs import DecodeGraphs, DecodeRow
from dyvte.engine.foreseen import foreseen
from dyvte.engine.image_cache import ImageCache
from dyvte.engine.pace import Pace
from dyvte.engine.pictures import Pictures, Seen, Tower
from dyvte.engine.pieces import rows_evenly, rows_within, work_of
from dyvte.engine.scoring import score_prompts, scored
from dyvte.engine.sequence import Sequence
from dyvte.exits.policy import Off
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import Part, Segment, pack
from dyvte.prefix import Passage, Prefix
from dyvte.streams import Lap, SideLine, Timings
from dyvte.trace import SequenceTrace
from dyvte.transfer import upload


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


@dataclass(frozen=True, slots=True)
class Output:
    """One sequence's next-token logits ``[V]`` and, after a prefill, its trace and passage."""

    sequence: Sequence
    logits: Tensor
    trace: SequenceTrace | None = None
    passage: Passage | None = None


@dataclass(slots=True)
class Spent:
    """Seconds in exit gates and in the vision tower that were told during a step."""

    gates: float = 0.0
    vision: float = 0.0


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
        self.line = SideLine(model.device)
        self._spent = Spent()
        self._timings = Timings()

    def settle(self) -> Spent:
        """A step is over: hear how long its parts took. Waits only for what was not read yet."""
        self._timings.settle()
        spent, self._spent = self._spent, Spent()
        return spent

    def _saw(self, seconds: float) -> None:
        self._spent.vision += seconds

    def _decided(self, seconds: float) -> None:
        self._spent.gates += seconds

    def open(self, sequences: Seq[Sequence]) -> Prefill:
        """Begin with a group: find what its prompts show in the cache, or note it to be encoded.

        Those that take the rows of their images from another sequence need none.
        """
        owners = {id(each.owner): each.owner for each in sequences if each.source is None}
        tower = Tower(self.model, self.images, self.pace, self.line, self._timings, self._saw)
        return Prefill(list(sequences), Pictures(tower, [*owners.values()]))

    def encode(self, prefill: Prefill, work: int | None, beside: bool = False) -> Seen:
        """Run the vision tower over as many of a group's images as ``work`` allows, or one.

        ``beside``: others decode meanwhile. Nothing is begun before the last run has ended.
        """
        seen = prefill.pictures.encode(work, beside)
        prefill.flops += seen.flops
        return seen

    def whole(self, prefill: Prefill) -> int:
        """Work of all layers of a group: what it may come to, never less than what it will."""
        return sum(foreseen(self.model.decoder, each, each.source) for each in prefill.sequences)

    def advance(
        self, prefill: Prefill, work: int | None, must: bool, interrupted: Callable[[], bool]
    ) -> list[Output]:
        """Run rows and layers of a group that cost no more than ``work`` (None: all that is left).

        With ``must`` a piece runs however small ``work`` is. ``interrupted`` is asked after each,
        and ends it where that is True. The outputs come with the last layer.
        """
        lap = Lap(self.model.device)
        state = prefill.loop or self._begin(prefill)
        asked, spent = len(state.gates), 0
        while state.layer < self.model.decoder.num_layers and not (spent and interrupted()):
            left = work if work is None else work - spent
            rows, cost = self._next_piece(state, left, must and not spent)
            # Where an abort took what the layer had still to run, it ends with no row more.
            if not rows and any(count for _, count in state.left):
                break
            loop.advance_rows(self.model, state, self.cache, self.attention, rows)
            spent += cost
            prefill.row_layers += rows
        outputs: list[Output] = []
        if state.layer == self.model.decoder.num_layers:
            score_prompts(self.model, state.batch, prefill.sequences)
            out = loop.finish(self.model, state)
            outputs = _outputs(prefill.sequences, out, state.passages)
        lap.stop()
        prefill.flops += spent
        for each in state.gates[asked:]:
            self._timings.add(each, self._decided)

        def told(seconds: float) -> None:
            self.pace.layers.learn(spent, seconds)
            prefill.seconds += seconds
            for out in outputs:
                out.sequence.owner.clock.prefill += prefill.seconds

        self._timings.add(lap, told)
        return outputs

    def _begin(self, prefill: Prefill) -> loop.LayerLoop:
        """Embed and pack the prompts of a group."""
        batch = pack([self._prompt(each) for each in prefill.sequences])
        policies = [each.policy for each in prefill.sequences]
        passages = [self._passage(each) for each in prefill.sequences]
        read_all = scored(prefill.sequences)
        prefill.loop = loop.start(self.model, batch, policies, passages, read_all)
        return prefill.loop

    def _next_piece(self, state: loop.LayerLoop, work: int | None, must: bool) -> tuple[int, int]:
        """How many of the layer's rows run next, and what they cost."""
        shape, least = self.model.decoder, self.pace.least
        left = [(rows, self.cache.length(seq, state.layer)) for seq, rows in state.left]
        if state.begun is None:  # what is known already is put there when the layer begins
            known = [each.cached(state.layer) if each else 0 for each in state.passages]
            left = [(rows, keys) for (rows, _), keys in zip(left, known, strict=True)]
        if work is None:
            rows = rows_evenly(shape, left, self.pace.piece)
        else:
            rows = rows_within(shape, left, work, least, must)
        return rows, work_of(shape, left, rows, least)

    def leave(self, prefill: Prefill, sequence: Sequence) -> None:
        """Take an aborted sequence out of a group in flight."""
        index = prefill.sequences.index(sequence)
        if prefill.loop is not None and len(prefill.sequences) > 1:
            loop.drop(prefill.loop, index)
        del prefill.sequences[index]
        if all(each.owner is not sequence.owner for each in prefill.sequences):
            prefill.pictures.leave(sequence.owner)

    def run(self, prefills: Seq[Sequence], decodes: Seq[Sequence]) -> list[Output]:
        """Prefills and decodes in one packed forward.

        Decodes alone go through the graphs where there are some.
        """
        if self.graphs is not None and not prefills:
            logits = self.graphs.run([_decode_row(each) for each in decodes])
            return [Output(*each) for each in zip(decodes, logits, strict=True)]
        layers, whole = Lap(self.model.device), Lap(self.model.device)
        parts = [self._prompt(each) for each in prefills]
        if decodes:
            parts += self._next_rows(decodes)
        policies = [each.policy for each in prefills] + [Off() for _ in decodes]
        passages = [self._passage(each) for each in prefills]
        state = loop.start(self.model, pack(parts), policies, passages, scored(prefills))
        loop.advance(self.model, state, self.cache, self.attention, self.model.decoder.num_layers)
        layers.stop()
        score_prompts(self.model, state.batch, prefills)
        out = loop.finish(self.model, state)
        whole.stop()
        for each in out.gates:
            self._timings.add(each, self._decided)
        if prefills:
            work = self._work(state, len(prefills), len(decodes))
            if work >= self.model.decoder.num_layers * self.model.decoder.linear(self.pace.least):
                # Fewer rows take as long as reading the weights does, whatever their work.
                self._timings.add(layers, lambda seconds: self.pace.layers.learn(work, seconds))
            self._timings.add(whole, lambda seconds: _prefilled(prefills, seconds))
        return _outputs([*prefills, *decodes], out, passages)

    def _work(self, state: loop.LayerLoop, prefills: int, decodes: int) -> int:
        """Of a whole prefill; keys of the decodes beside it hardly count."""
        shape = self.model.decoder
        ran = state.traces[:prefills]
        work = sum(shape.prefill(trace.tokens_per_layer) for trace in ran)
        work -= sum(shape.spared(trace.tokens_per_layer, trace.cached_per_layer) for trace in ran)
        return work + shape.num_layers * shape.linear(decodes)

    def _prompt(self, sequence: Sequence) -> Part:
        """All rows of a prompt that must run, with what was generated before a preemption."""
        owner, source = sequence.owner, sequence.source
        if source is not None:
            return self.model.rest(sequence.seq, owner.layout, source.stop, sequence.token_ids)
        rows = owner.image_rows or []
        if rows:
            self.line.taken(rows)
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
        return self.model.embed_tokens(upload(token_ids, torch.int64, self.model.device))


def _prefilled(sequences: Seq[Sequence], seconds: float) -> None:
    for each in sequences:
        each.owner.clock.prefill += seconds


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
