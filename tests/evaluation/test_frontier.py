"""Policies at equal cost, on lines that one can check by eye."""

from __future__ import annotations

import pytest

from dyvte.evaluation.frontier import at_equal_cost
from dyvte.evaluation.report import as_comparison
from dyvte.evaluation.tally import Row


def row(name: str, saved: float, accuracy: float | None, changed: float = 0.0) -> Row:
    series = name.partition(":")[0]
    return Row(
        *(name, series, 100, 100, accuracy, accuracy, accuracy, {}, None, 0, changed, changed),
        *(saved, saved, {}, {}, 0.0, 0.0),
    )


OFF = row("off", 0.0, 0.9)
GATES = [row("gate:0.5", 0.4, 0.9), row("gate:0.9", 0.6, 0.8)]


def test_a_line_is_straight_between_its_settings_and_begins_at_no_exit() -> None:
    others = [row("fixed:5", 0.2, 0.85), row("fixed:3", 0.5, 0.9), row("fixed:1", 0.7, 0.2)]
    early, late = at_equal_cost([OFF, *GATES, *others], "gate")
    assert (early.row.name, late.row.name) == ("fixed:5", "fixed:3")
    assert [early.line, early.ahead] == pytest.approx([0.9, 0.05])
    assert [late.line, late.ahead] == pytest.approx([0.85, -0.05])


def test_what_the_line_does_not_reach_is_not_compared() -> None:
    assert at_equal_cost([OFF, *GATES, row("fixed:1", 0.7, 0.2)], "gate") == []


def test_without_right_answers_agreement_stands_for_accuracy() -> None:
    rows = [row("off", 0, None), row("gate:1", 0.5, None, 0.1), row("fixed:4", 0.5, None, 0.3)]
    (found,) = at_equal_cost(rows, "gate")
    assert found.ahead == pytest.approx(0.2)


def test_the_table_says_who_is_ahead() -> None:
    rows = [OFF, *GATES, row("fixed:5", 0.2, 0.85)]
    line = as_comparison(rows).splitlines()[-1]
    assert line == "| fixed:5 | 20.0% | 85.0% | 90.0% | +5.0 |"
    assert as_comparison([OFF, row("fixed:5", 0.2, 0.85)]) == ""
