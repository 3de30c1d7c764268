"""Results as files: everything as JSON, one line a setting as CSV, and a table to paste."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dyvte.evaluation.frontier import at_equal_cost, height
from dyvte.evaluation.tally import Row

RESULTS, COLUMNS, TABLE, FIGURE = "results.json", "results.csv", "table.md", "pareto.png"


def write_results(out: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the three files into ``out``. Raises OSError."""
    record = {**about, "settings": [asdict(row) for row in rows]}
    (out / RESULTS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    flat = [as_columns(row) for row in rows]
    with (out / COLUMNS).open("w", encoding="utf-8", newline="") as file:
        names = list(dict.fromkeys(name for row in flat for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(flat)
    tables = filter(None, (as_table(rows), as_histogram(rows), as_comparison(rows)))
    (out / TABLE).write_text("\n\n".join(tables) + "\n", encoding="utf-8")


def as_columns(row: Row) -> dict[str, Any]:
    """One line of the CSV: nested values under joined names."""
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if name in ("exits", "options"):
            flat[name] = json.dumps(value)
        elif name == "accuracy_difference":
            ends = value or (None, None, None)
            flat |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        elif isinstance(value, dict):
            prefix = name.removesuffix("_by_kind")
            flat |= {f"{prefix}_{key}".replace(" ", "_"): each for key, each in value.items()}
        else:
            flat[name] = value
    return flat


def as_table(rows: Sequence[Row]) -> str:
    """Markdown, one line a setting; the kinds of questions last."""
    kinds = sorted({kind for row in rows for kind in row.accuracy_by_kind})
    clocked = any(row.seconds for row in rows)
    head = ["setting", "accuracy", "Δ (95 %)", "changed (≤ 95 %)", "prefill FLOPs saved"]
    head += ["request FLOPs saved", "KV saved"] + (["prefill ms", "decode ms"] if clocked else [])
    lines = [[*head, *kinds]]
    for row in rows:
        cells = [
            row.name,
            _percent(row.accuracy),
            _difference(row),
            f"{row.changed_share:.1%} ({row.changed_upper:.1%})",
            _percent(row.prefill_saved),
            _percent(row.request_saved),
            _percent(row.kv_bytes_saved / max(1.0, row.kv_bytes + row.kv_bytes_saved)),
        ]
        if clocked:
            cells += [f"{1e3 * row.seconds.get(name, 0):.1f}" for name in ("prefill", "decode")]
        shares = (row.accuracy_by_kind.get(kind) for kind in kinds)
        lines.append([*cells, *("" if s is None else f"{s:.0%}" for s in shares)])
    return _markdown(lines)


def as_histogram(rows: Sequence[Row]) -> str:
    """Markdown: how many samples left after each layer; the last column never did."""
    layers = sorted({layer for row in rows for layer in row.exits if layer >= 0})
    lines = [["setting", *(f"after {layer}" for layer in layers), "never"]]
    for row in rows:
        counts = (row.exits.get(layer, 0) for layer in (*layers, -1))
        lines.append([row.name, *(str(count or "") for count in counts)])
    return _markdown(lines)


def as_comparison(rows: Sequence[Row], series: str = "gate") -> str:
    """Markdown: every other setting beside the gates' line at equal FLOPs; empty if none."""
    head = ["setting", "prefill FLOPs saved", "accuracy", f"{series} at equal FLOPs", "ahead"]
    if all(row.series != series for row in rows):
        return ""
    lines = [
        [
            each.row.name,
            _percent(each.row.prefill_saved),
            _percent(height(each.row)),
            _percent(each.line),
            f"{100 * each.ahead:+.1f}",
        ]
        for each in at_equal_cost(rows, series)
    ]
    return _markdown([head, *lines]) if lines else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _difference(row: Row) -> str:
    if row.accuracy_difference is None or row.name == "off":
        return ""
    value, low, high = (100 * each for each in row.accuracy_difference)
    return f"{value:+.1f} ({low:+.1f} … {high:+.1f})"


def _markdown(lines: Sequence[Iterable[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in map(list, lines))
    rule = "|" + " --- |" * (head.count(" | ") + 1)
    return "\n".join([head, rule, *body])
