"""From seconds to a budget, and from a budget to rows: no engine, no model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyvte.engine.pace import MARGIN, Pace, Rate
from dyvte.engine.pieces import rows_within, work_of
from dyvte.flops import DecoderShape

SHAPE = DecoderShape(4, 8, 16, 2, 2, 4, 10)
left = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 90)), min_size=1, max_size=4)


def test_a_budget_is_what_fits_the_stall_at_the_pace_seen() -> None:
    pace = Pace(stall_s=0.1, first=77)
    assert pace.budget() == 77, "nothing was seen yet"
    pace.layers.learn(1000, 1.0)
    assert pace.budget() == int(MARGIN * 100)
    pace.vision.learn(1000, 3.0)
    assert pace.image_work(10) == 30, "the tower runs at a third of the decoder's pace"


def test_without_a_stall_only_the_background_yields() -> None:
    pace = Pace(stall_s=0.0, first=77)
    pace.layers.learn(1000, 1.0)
    assert pace.budget() is None
    assert pace.budget(background=True) == int(MARGIN * 100)


def test_a_fixed_budget_is_not_measured() -> None:
    pace = Pace(stall_s=0.1, first=77, fixed=5)
    pace.layers.learn(1000, 1.0)
    pace.vision.learn(1000, 3.0)
    assert (pace.budget(), pace.image_work(10)) == (5, 10)


def test_a_slower_machine_is_believed_sooner_than_a_faster_one() -> None:
    slower, faster = Rate(1.0), Rate(1.0)
    slower.learn(1, 2.0)
    faster.learn(1, 0.0)
    assert slower.seconds is not None
    assert faster.seconds is not None
    assert slower.seconds - 1.0 > 1.0 - faster.seconds > 0
    slower.learn(0, 9.0)
    assert slower.seconds < 2.0, "no work says nothing"


@given(left=left, work=st.integers(0, 60_000), least=st.integers(1, 30), must=st.booleans())
def test_the_most_rows_that_fit_and_never_a_crumb(
    left: list[tuple[int, int]], work: int, least: int, must: bool
) -> None:
    total = sum(rows for rows, _ in left)
    rows = rows_within(SHAPE, left, work, least, must)
    enough = min(least, total)
    assert rows == 0 or enough <= rows <= total
    fits = work_of(SHAPE, left, rows, least) <= work
    assert fits or (must and rows == enough)
    if fits and enough <= rows < total:
        assert work_of(SHAPE, left, rows + 1, least) > work
    if rows == 0 and total:
        assert not must
        assert work_of(SHAPE, left, enough, least) > work


@pytest.mark.parametrize(("rows", "keys"), [(1, 0), (30, 0), (40, 0), (7, 90)])
def test_a_layer_in_pieces_attends_no_more_than_the_layer_whole(rows: int, keys: int) -> None:
    """Rows that are run later see the keys of those before; none is counted twice."""
    pieces = sum(work_of(SHAPE, [(1, keys + at)], 1, 1) for at in range(rows))
    assert pieces <= work_of(SHAPE, [(rows, keys)], rows, 1) == SHAPE.layer(rows, keys + rows)
