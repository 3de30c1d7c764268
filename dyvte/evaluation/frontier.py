"""Policies at equal cost: what one policy's line would give for the FLOPs of another's setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dyvte.evaluation.tally import Row


@dataclass(frozen=True, slots=True)
class AtEqualCost:
    """``row`` beside the line of another policy at the same share of prefill FLOPs saved."""

    row: Row
    line: float

    @property
    def ahead(self) -> float:
        """How much more accurate the line is (negative: less)."""
        return self.line - height(self.row)


def height(row: Row) -> float:
    """Accuracy, or agreement with no exit where no right answers are known."""
    return 1.0 - row.changed_share if row.accuracy is None else row.accuracy


def at_equal_cost(rows: Sequence[Row], series: str) -> list[AtEqualCost]:
    """Every setting of another policy whose saving ``series`` reaches; ``rows[0]`` is no exit.

    Between two of its settings a line is straight: sending a share of the requests through each
    gives just that. It begins at no exit.
    """
    line = sorted(
        [rows[0], *(row for row in rows if row.series == series)], key=lambda row: row.prefill_saved
    )
    found = []
    for row in rows[1:]:
        if row.series == series:
            continue
        for left, right in pairwise(line):
            if left.prefill_saved <= row.prefill_saved <= right.prefill_saved:
                found.append(AtEqualCost(row, _between(left, right, row.prefill_saved)))
                break
    return found


def _between(left: Row, right: Row, saved: float) -> float:
    width = right.prefill_saved - left.prefill_saved
    share = (saved - left.prefill_saved) / width if width else 1.0
    return (1 - share) * height(left) + share * height(right)
