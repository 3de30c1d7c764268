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
from dyvte.engine.scoring import score_prompts
from dyvte.engine.sequence import RequestState, Sequence
from dyvte.exits.policy import Off
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import Part, Segment, pack
from dyvte.prefix import Passage, Prefix
from dyvte.trace import SequenceTrace


@dataclass(slots=True)
class Prefill:
    """A prefill group in flight, between two of its layers."""

    sequences: list[Sequence]
    state: loop.LayerLoop
    seconds: float = 0.0


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
        images: ImageCache | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.attention = attention
        self.images = ImageCache(0) if images is None else images
        self.graphs: DecodeGraphs | None = None

    def encode(self, requests: Seq[RequestState]) -> float:
        """Run the vision tower for requests that still need it, together; return the seconds.

        Images that were seen before, or that another of these requests shows, are not run again.
        """
        todo = [state for state in requests if state.image_rows is None]
        pictured = [state for state in todo if state.layout.spans]
        unseen = [state for state in pictured if not self._found(state)]
        first = {_identity(state): state for state in reversed(unseen)}
        alone = [state for state in unseen if first[_identity(state)] is state]
        began = time.perf_counter()
        rows = self.model.encode_images([state.images for state in alone]) if alone else []
        seconds = time.perf_counter() - began
        for state, image_rows in zip(alone, rows, strict=True):
            state.image_rows = image_rows
            self._keep(state)
        for state in unseen:
            state.clock.vision += seconds
            twin = first[_identity(state)]
            if state is not twin:
                state.image_rows, state.image_hit = twin.image_rows, True
        for state in todo:
            state.image_rows = state.image_rows or []
        return seconds if alone else 0.0

    def _found(self, state: RequestState) -> bool:
        """Take the rows of its images from the cache, if it may be asked and has them."""
        key = state.request.prompt.image_key
        if key is None or not self.images.max_bytes:
            return False
        state.image_rows = self.images.get(state.request.cache_salt, key)
        state.image_hit = state.image_rows is not None
        return state.image_hit

    def _keep(self, state: RequestState) -> None:
        key = state.request.prompt.image_key
        if key is not None and state.image_rows:
            self.images.put(state.request.cache_salt, key, state.image_rows)

    def begin(self, sequences: Seq[Sequence]) -> Prefill:
        """Embed and pack the prompts of a group."""
        began = time.perf_counter()
        batch = pack([self._prompt(each) for each in sequences])
        passages = [self._passage(each) for each in sequences]
        state = loop.start(self.model, batch, [each.policy for each in sequences], passages)
        return Prefill(list(sequences), state, time.perf_counter() - began)

    def advance(self, prefill: Prefill, layers: int) -> list[Output]:
        """Run some layers of a group; the outputs come with the last layer."""
        began = time.perf_counter()
        stop = min(prefill.state.layer + layers, self.model.decoder.num_layers)
        loop.advance(self.model, prefill.state, self.cache, self.attention, stop)
        outputs: list[Output] = []
        if stop == self.model.decoder.num_layers:
            score_prompts(self.model, prefill.state.batch, prefill.sequences)
            out = loop.finish(self.model, prefill.state)
            outputs = _outputs(prefill.sequences, out, prefill.state.passages)
        prefill.seconds += time.perf_counter() - began
        return outputs

    def leave(self, prefill: Prefill, sequence: Sequence) -> None:
        """Take an aborted sequence out of a group in flight."""
        index = prefill.sequences.index(sequence)
        if len(prefill.sequences) > 1:
            loop.drop(prefill.state, index)
        del prefill.sequences[index]

    def run(self, prefills: Seq[Sequence], decodes: Seq[Sequence]) -> tuple[list[Output], float]:
        """Prefills and decodes in one packed forward; also the seconds spent in gates.

        Decodes alone go through the graphs where there are some.
        """
        if self.graphs is not None and not prefills:
            logits = self.graphs.run([_decode_row(each) for each in decodes])
            return [Output(*each) for each in zip(decodes, logits, strict=True)], 0.0
        parts = [self._prompt(each) for each in prefills]
        if decodes:
            parts += self._next_rows(decodes)
        policies = [each.policy for each in prefills] + [Off() for _ in decodes]
        passages = [self._passage(each) for each in prefills]
        state = loop.start(self.model, pack(parts), policies, passages)
        loop.advance(self.model, state, self.cache, self.attention, self.model.decoder.num_layers)
        score_prompts(self.model, state.batch, prefills)
        out = loop.finish(self.model, state)
        return _outputs([*prefills, *decodes], out, passages), out.gate_seconds

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


def _decode_row(sequence: Sequence) -> DecodeRow:
    """Generated tokens have no image, so every axis counts alike."""
    position = sequence.rows - 1 + sequence.owner.layout.delta
    return DecodeRow(sequence.seq, sequence.token_ids[-1], position)


def _identity(state: RequestState) -> tuple[str, bytes] | int:
    """The same for requests that may share their images' rows."""
    if state.image_hit is None:
        return id(state)
    return state.request.cache_salt, state.request.prompt.image_key or b""


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
