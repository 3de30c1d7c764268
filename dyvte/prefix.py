"""Rows up to the end of a prompt's last image, as an earlier request about the same images left
them, and one sequence's way through the layers with or without them.

What is shared does not depend on the question: the rows up to the end of the last visual span,
down to the layer after which the images left. Text before the first image depends on no image,
so its keys and values hold in every layer. Text between images depends on the exit below it, so
its few states are kept after every layer and are put back into the batch where the new request
exits. If that request stays longer than the earlier one, the images' states re-enter where they
left (lazy depth), and the layers above are computed for them only then. Either way each layer
ends up with the keys, values and states that it would have had without a cache.

Rows behind the prefix depend on the exit and on nothing else. Who is sure to leave where the
earlier request left takes those as well, as far as the tokens are the same: a conversation goes
on where its last answer ended.

Knows layers and rows; knows neither requests nor how long anything is kept.

Shapes: d hidden size, n rows of the sequence in the step, M rows of text between images, R rows
from the first image's first to the last image's last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.kv_cache import KVCache
from dyvte.packing import Part, Segment
from dyvte.prompt import VisualSpan
from dyvte.transfer import upload


@dataclass(frozen=True, slots=True)
class Prefix:
    """Rows ``0..stop-1`` of a prompt: text up to ``start``, then images, with text between them.

    ``spans`` and ``between`` (the rows of that text) count from ``start``.
    """

    start: int
    stop: int
    spans: tuple[VisualSpan, ...]
    between: tuple[int, ...]

    @classmethod
    def of(cls, spans: Sequence[VisualSpan]) -> Prefix:
        """Up to the end of the last of these spans, of which there is at least one."""
        start, stop = spans[0].start, spans[-1].stop
        moved = tuple(VisualSpan(span.start - start, span.stop - start) for span in spans)
        segment = Segment(0, stop - start, moved)
        return cls(start, stop, moved, tuple(segment.text_rows()))


@dataclass(slots=True)
class Memory:
    """What a sequence left of its prefix. ``seq`` holds its rows in the KV cache.

    ``between[l]`` is ``[M, d]`` after layer l. In the layers 0..depth all rows are there; above,
    those before ``start``. ``images [R, d]`` are the rows from ``start`` on after layer ``depth``;
    None where that is the last layer. ``tail`` are the token ids of the rows behind the prefix
    that are there too; with them, the text between the images is there in every layer.
    """

    prefix: Prefix
    seq: int
    between: list[Tensor]
    images: Tensor | None = None
    tail: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """The last layer that saw the images."""
        return len(self.between) - 1

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden states, keys and values apart."""
        kept = self.between if self.images is None else [*self.between, self.images]
        return sum(each.nbytes for each in kept)

    def rows_per_layer(self, num_layers: int) -> list[int]:
        """Rows whose keys and values are needed of each layer."""
        return [self.rows(layer, len(self.tail)) for layer in range(num_layers)]

    def rows(self, layer: int, tail: int = 0, left: bool = False) -> int:
        """Rows of ``layer`` that can be taken, with ``tail`` of those behind the prefix.

        ``left``: the images of the taker left below it.
        """
        prefix = self.prefix
        if layer <= self.depth and not left:
            return prefix.stop + tail
        return prefix.start + len(prefix.between) + tail if tail else prefix.start


@dataclass(frozen=True, slots=True)
class Source:
    """What one sequence takes of a memory: its prefix, and the first ``tail`` rows behind it."""

    memory: Memory
    tail: int = 0

    @property
    def stop(self) -> int:
        """The first row of the prompt that must run."""
        return self.memory.prefix.stop + self.tail


@dataclass(slots=True)
class Passage:
    """One sequence in prefill. ``source`` is what it found, None if nothing.

    ``positions`` are those of the rows ``start..stop-1``.
    """

    prefix: Prefix
    positions: Tensor
    source: Source | None = None
    _first: int = 0  # the prompt's row that is the first of the segment
    _left: bool = False
    _usable: bool = True
    _between: list[Tensor] = field(default_factory=list)
    _images: Tensor | None = None

    def __post_init__(self) -> None:
        if self.source is not None:
            self._first = self.source.stop

    def cached(self, layer: int) -> int:
        """Rows that precede the segment's in ``layer`` and are taken from the source."""
        if self.source is None:
            return 0
        return self.source.memory.rows(layer, self.source.tail, self._left)

    def attach(self, cache: KVCache, layer: int, segment: Segment) -> None:
        """Before ``layer`` runs: give the sequence the rows that it does not compute."""
        rows = self.cached(layer)
        if rows:
            assert self.source is not None
            cache.take(self.source.memory.seq, segment.seq, layer, rows, rows + segment.rows)

    def after(self, layer: int, hidden: Tensor, left: bool, added: bool) -> Part | None:
        """``layer`` has run and gave ``hidden [n, d]``; the images leave here if ``left``.

        Returns rows that go before the segment's in the next layer. ``added``: the model will
        still add something to the images' rows, so that this is no place to leave them at.
        """
        if self._left:
            return None
        self._left = left
        source, prefix = self.source, self.prefix
        if source is not None and self._first >= prefix.stop:
            return None if source.tail else self._return(source.memory, layer, left)
        rows = [row + prefix.start - self._first for row in prefix.between]
        # No view, not even of no rows: it would keep the whole batch in memory.
        self._between.append(
            hidden.index_select(0, upload(rows, torch.int64, hidden.device))
            if rows
            else hidden.new_empty(0, hidden.shape[1])
        )
        if left:
            self._images = hidden[prefix.start - self._first : prefix.stop - self._first].clone()
            self._usable = not added
        return None

    def _return(self, source: Memory, layer: int, left: bool) -> Part | None:
        prefix = self.prefix
        if left:
            text = upload(prefix.between, torch.int64, self.positions.device)
            segment = Segment(0, len(prefix.between))
            positions = self.positions.index_select(-1, text)
            return Part(segment, source.between[layer], positions) if prefix.between else None
        if layer < source.depth or source.images is None:
            return None
        self._first = prefix.start
        segment = Segment(0, prefix.stop - prefix.start, prefix.spans)
        return Part(segment, source.images, self.positions)

    def memory(self, seq: int) -> Memory | None:
        """What ``seq``, whose prefill this was, left; None if it computed no row of an image."""
        if not self._between or not self._usable:
            return None
        before = [] if self.source is None else self.source.memory.between
        return Memory(self.prefix, seq, [*before, *self._between], self._images)
