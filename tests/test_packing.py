"""Rows of many sequences side by side, and what stays when some leave."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyvte.packing import PackedBatch, Part, Segment, pack
from dyvte.prompt import VisualSpan


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """A prefill: text and pictures in turn, each perhaps empty, at least one text row."""
    spans: list[VisualSpan] = []
    at = draw(st.integers(0, 3))
    for size in draw(st.lists(st.integers(1, 4), max_size=3)):
        spans.append(VisualSpan(at, at + size))
        at += size + draw(st.integers(0, 3))
    rows = at + draw(st.integers(0 if at > sum(map(len, spans)) else 1, 3))
    return Segment(draw(st.integers(0, 99)), rows, tuple(spans), prefill=True)


batches = st.lists(segments(), min_size=1, max_size=5)


def packed(several: list[Segment]) -> PackedBatch:
    """Each row's content says whose it is and where it was: (segment, position)."""
    parts = []
    for index, segment in enumerate(several):
        positions = torch.arange(segment.rows)
        hidden = torch.stack([torch.full_like(positions, index), positions], 1).float()
        parts.append(Part(segment, hidden, positions))
    return pack(parts)


@given(batches)
def test_every_segment_finds_its_own_rows(several: list[Segment]) -> None:
    batch = packed(several)
    assert batch.lengths == [segment.rows for segment in several]
    for index, (start, last) in enumerate(zip(batch.starts, batch.last_rows, strict=True)):
        assert batch.hidden[start].tolist() == [index, 0]
        assert batch.hidden[last].tolist() == [index, several[index].rows - 1]


@given(batches, st.data())
def test_leaving_rows_take_nothing_else_with_them(
    several: list[Segment], data: st.DataObject
) -> None:
    """Against the definition: row by row, is it visual and does its segment leave?"""
    leaving = data.draw(st.sets(st.integers(0, len(several) - 1)))
    after, keep = packed(several).drop_visual(leaving)
    expected = [
        (index, row)
        for index, segment in enumerate(several)
        for row in range(segment.rows)
        if index not in leaving or not any(s.start <= row < s.stop for s in segment.spans)
    ]
    assert [tuple(map(int, row)) for row in after.hidden.tolist()] == expected
    assert after.positions.tolist() == [row for _, row in expected]
    assert keep.tolist() == [packed(several).starts[index] + row for index, row in expected]
    for index, segment in enumerate(after.segments):
        assert segment.seq == several[index].seq
        assert segment.spans == (() if index in leaving else several[index].spans)


@given(batches, st.data())
def test_a_segment_that_goes_leaves_the_others_as_they_were(
    several: list[Segment], data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, len(several) - 1))
    after, _ = packed(several).drop_segment(gone)
    assert list(after.segments) == [s for i, s in enumerate(several) if i != gone]
    assert gone not in after.hidden[:, 0].tolist()


def test_positions_keep_the_gap_where_the_image_was() -> None:
    segment = Segment(0, 7, (VisualSpan(2, 5),), prefill=True)
    after, _ = packed([segment]).drop_visual({0})
    assert after.positions.tolist() == [0, 1, 5, 6]


def test_rows_that_do_not_add_up_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="segments hold 3 rows"):
        PackedBatch((Segment(0, 3),), torch.zeros(2, 4), torch.arange(2))
