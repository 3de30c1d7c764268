"""How much of a layer runs between two decode steps: integers only, no tensors, no clock.

Work is counted in FLOPs, as ``DecoderShape`` has them: rows alone would count a row that attends
three thousand keys like one that attends thirty. A few rows cost what ``least`` rows do, since a
layer's weights are read either way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from dyvte.flops import DecoderShape

LARGE = 1024  # rows of a layer: cut into so many, eight prompts take as long as whole (within 1 %)

Left = Sequence[tuple[int, int]]
"""``(rows, keys)`` of each sequence: rows that the layer has still to run, keys it holds."""


def work_of(shape: DecoderShape, left: Left, rows: int, least: int) -> int:
    """What the next ``rows`` rows of a layer cost, sequence after sequence."""
    total = shape.linear(max(rows, least)) if rows else 0
    for (count, keys), before in zip(left, _starts(left), strict=True):
        taken = min(max(rows - before, 0), count)
        total += shape.attention(taken, keys + taken)
    return total


def rows_within(shape: DecoderShape, left: Left, work: int, least: int, must: bool) -> int:
    """The most rows that cost no more than ``work``; 0 if those would be too few to be worth it.

    Too few are less than ``least``, unless no more are left. With ``must`` some always run, so
    that a prefill gets on however small the budget.
    """
    total = sum(rows for rows, _ in left)
    fit = bisect_right(range(total + 1), work, key=lambda n: work_of(shape, left, n, least)) - 1
    enough = min(least, total)
    if fit < enough:
        return enough if must else 0
    return fit


def rows_evenly(shape: DecoderShape, left: Left, work: int) -> int:
    """The first of as few even pieces as cost no more than ``work`` or have ``LARGE`` rows each.

    For when nobody waits, but somebody might come.
    """
    total = sum(rows for rows, _ in left)
    fit = max(LARGE, rows_within(shape, left, work, 1, must=True))
    return -(-total // -(-total // fit)) if total else 0


def _starts(left: Left) -> list[int]:
    return [0, *accumulate(rows for rows, _ in left)][:-1]
