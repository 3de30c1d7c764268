"""PackedBatch: the rows of many sequences in one dimension, without padding.

Prefills and decodes lie side by side as segments of ``hidden [T, d]``; an exit is a selection of
rows. The book-keeping is Python integers, so that no length is ever read back from a device.

Shapes: T rows of the step, d hidden size, S segments, A rotary axes, K deepstack levels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from dyvte.prompt import VisualSpan
from dyvte.transfer import upload


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one sequence in this step.

    ``seq`` is the sequence's key in the KV cache; ``spans`` are the visual rows that are still
    there and may leave, relative to the segment (a span that pruning emptied stays, to say where
    its image was); ``prefill`` is False for a decode row. The last row is in no span: the next
    token is predicted there. ``cached``: its images may leave but are not among the rows, since
    the KV cache has theirs from an earlier request.
    """

    seq: int
    rows: int
    spans: tuple[VisualSpan, ...] = ()
    prefill: bool = False
    cached: bool = False

    @property
    def visual_rows(self) -> int:
        """Rows that come from images."""
        return sum(len(span) for span in self.spans)

    def text_rows(self) -> list[int]:
        """Indices (relative) of the rows outside every visual span, in order."""
        rows: list[int] = []
        at = 0
        for span in self.spans:
            rows.extend(range(at, span.start))
            at = span.stop
        rows.extend(range(at, self.rows))
        return rows


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Segments and their rows: ``hidden [T, d]`` and ``positions [T]`` or ``[A, T]`` (int64).

    Positions are those of the whole prompt: rows that leave take their positions with them, the
    others keep theirs, gap and all. ``deepstack [T, K, d]`` holds what the model still adds to
    the rows after its first K layers; rows that leave take that with them as well.
    """

    segments: tuple[Segment, ...]
    hidden: Tensor
    positions: Tensor
    deepstack: Tensor | None = None

    def __post_init__(self) -> None:
        rows = sum(segment.rows for segment in self.segments)
        if rows != self.hidden.shape[0] or rows != self.positions.shape[-1]:
            raise ValueError(
                f"segments hold {rows} rows, hidden {self.hidden.shape[0]}, "
                f"positions {self.positions.shape[-1]}"
            )

    @property
    def lengths(self) -> list[int]:
        """Rows of each segment."""
        return [segment.rows for segment in self.segments]

    @property
    def starts(self) -> list[int]:
        """First row of each segment."""
        return [0, *accumulate(self.lengths)][:-1]

    @property
    def last_rows(self) -> list[int]:
        """Last row of each segment: where its next token is predicted."""
        return [total - 1 for total in accumulate(self.lengths)]

    def rows(self, first: int, stop: int) -> PackedBatch:
        """The rows ``first..stop-1`` as a step of their own (views). Visual spans are not told."""
        if (first, stop) == (0, len(self.hidden)):
            return self
        parts = [
            replace(segment, rows=min(stop, start + segment.rows) - max(first, start), spans=())
            for segment, start in zip(self.segments, self.starts, strict=True)
            if start < stop and start + segment.rows > first
        ]
        return PackedBatch(
            segments=tuple(parts),
            hidden=self.hidden[first:stop],
            positions=self.positions[..., first:stop],
            deepstack=None if self.deepstack is None else self.deepstack[first:stop],
        )

    def ends(self, rows: Sequence[int]) -> PackedBatch:
        """The segments whose last row is among ``rows``, in order, with that row alone."""
        asked, at = set(rows), upload(rows, torch.int64, self.hidden.device)
        ending = zip(self.segments, self.last_rows, strict=True)
        return PackedBatch(
            segments=tuple(
                replace(segment, rows=1, spans=()) for segment, last in ending if last in asked
            ),
            hidden=self.hidden.index_select(0, at),
            positions=self.positions.index_select(-1, at),
        )

    def after(self, layer: int, hidden: Tensor) -> PackedBatch:
        """The same rows as ``layer`` left them; deepstack that is all added is let go."""
        spent = self.deepstack is not None and layer + 1 >= self.deepstack.shape[1]
        return replace(self, hidden=hidden, deepstack=None if spent else self.deepstack)

    def keep_visual(self, kept: Mapping[int, Sequence[int]]) -> tuple[PackedBatch, Tensor]:
        """Prune: of the segments named, only some visual rows stay.

        ``kept[i]`` are ascending indices into the visual rows of segment ``i``. Returns as
        ``drop_visual``.
        """
        keep: list[int] = []
        segments: list[Segment] = []
        for index, (segment, start) in enumerate(zip(self.segments, self.starts, strict=True)):
            if index in kept:
                segment, rows = _thinned(segment, set(kept[index]))
                keep.extend(start + row for row in rows)
            else:
                keep.extend(range(start, start + segment.rows))
            segments.append(segment)
        return self._select(segments, keep)

    def drop_visual(self, leaving: Collection[int]) -> tuple[PackedBatch, Tensor]:
        """Take the visual rows out of the segments whose index is in ``leaving``.

        Returns the smaller batch and ``keep`` (int64), the indices of the rows that stay, so
        that whatever else has a row dimension can follow.
        """
        keep: list[int] = []
        segments: list[Segment] = []
        for index, (segment, start) in enumerate(zip(self.segments, self.starts, strict=True)):
            if index in leaving:
                text = segment.text_rows()
                keep.extend(start + row for row in text)
                segments.append(replace(segment, rows=len(text), spans=(), cached=False))
            else:
                keep.extend(range(start, start + segment.rows))
                segments.append(segment)
        return self._select(segments, keep)

    def drop_segment(self, leaving: int) -> tuple[PackedBatch, Tensor]:
        """Take a whole segment out (its sequence was aborted); returns as ``drop_visual``."""
        start, rows = self.starts[leaving], self.segments[leaving].rows
        keep = [*range(start), *range(start + rows, self.hidden.shape[0])]
        return self._select([s for i, s in enumerate(self.segments) if i != leaving], keep)

    def insert(self, added: Mapping[int, Part]) -> PackedBatch:
        """Put rows before those of the segments named; their spans become the segment's."""
        segments, parts = list(self.segments), []
        for index, (segment, start) in enumerate(zip(self.segments, self.starts, strict=True)):
            rows = slice(start, start + segment.rows)
            own = None if self.deepstack is None else self.deepstack[rows]
            new = added.get(index)
            if new is not None:
                parts.append(new)
                total = segment.rows + new.segment.rows
                segments[index] = replace(
                    segment, rows=total, spans=new.segment.spans, cached=False
                )
            parts.append(Part(segment, self.hidden[rows], self.positions[..., rows], own))
        return replace(pack(parts), segments=tuple(segments))

    def _select(self, segments: Sequence[Segment], keep: list[int]) -> tuple[PackedBatch, Tensor]:
        rows = upload(keep, torch.int64, self.hidden.device)
        batch = PackedBatch(
            segments=tuple(segments),
            hidden=self.hidden.index_select(0, rows),
            positions=self.positions.index_select(-1, rows),
            deepstack=None if self.deepstack is None else self.deepstack.index_select(0, rows),
        )
        return batch, rows


def _thinned(segment: Segment, kept: set[int]) -> tuple[Segment, list[int]]:
    """The segment without the visual rows not in ``kept``, and its rows that stay."""
    rows: list[int] = []
    spans: list[VisualSpan] = []
    at = seen = 0
    for span in segment.spans:
        rows.extend(range(at, span.start))
        first = len(rows)
        rows.extend(row for row in span.rows if seen + row - span.start in kept)
        spans.append(VisualSpan(first, len(rows)))
        at, seen = span.stop, seen + len(span)
    rows.extend(range(at, segment.rows))
    return replace(segment, rows=len(rows), spans=tuple(spans)), rows


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's share of a step: see ``PackedBatch``; ``deepstack`` may end early."""

    segment: Segment
    hidden: Tensor
    positions: Tensor
    deepstack: Tensor | None = None


def pack(parts: Sequence[Part]) -> PackedBatch:
    """Put the rows of several sequences side by side."""
    return PackedBatch(
        segments=tuple(part.segment for part in parts),
        hidden=torch.cat([part.hidden for part in parts]),
        positions=torch.cat([part.positions for part in parts], dim=-1),
        deepstack=_deepstack(parts),
    )


def _deepstack(parts: Sequence[Part]) -> Tensor | None:
    """Rows of a part beyond its own deepstack get zeros."""
    levels = {part.deepstack.shape[1] for part in parts if part.deepstack is not None}
    if not levels:
        return None
    (depth,) = levels
    rows, width = sum(part.segment.rows for part in parts), parts[0].hidden.shape[1]
    out = parts[0].hidden.new_zeros(rows, depth, width)
    start = 0
    for part in parts:
        if part.deepstack is not None:
            out[start : start + len(part.deepstack)] = part.deepstack
        start += part.segment.rows
    return out
