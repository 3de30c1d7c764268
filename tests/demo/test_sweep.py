"""What the sweep writes down."""

from __future__ import annotations

import json
from collections import Counter

from dyvte.demo.sweep import Row, as_json, as_markdown, histogram

ROW = Row(
    "gate 0.5",
    questions=4,
    right=Counter(color=2),
    asked=Counter(color=3, shape=1),
    exits=Counter({3: 3, -1: 1}),
    prefill=60,
    prefill_full=100,
    changed=1,
)


def test_a_row_goes_through_json_with_its_counts_and_ratios() -> None:
    (row,) = json.loads(as_json([ROW]))
    assert row["asked"] == {"color": 3, "shape": 1}
    assert row["exits"] == {"3": 3, "-1": 1}
    assert (row["accuracy"], row["prefill_saved"]) == (0.5, 0.4)


def test_tables_have_a_line_a_setting() -> None:
    assert "| gate 0.5 | 50.0% | 40.0% | 25.0% | 67% | 0% |" in as_markdown([ROW])
    assert histogram([ROW], 4).splitlines()[-1] == "| gate 0.5 |  |  |  | 3 | 1 |"
