"""The comparison as a picture: a panel a figure, a bar an entry, whiskers over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.compare import Row
from dyvte.analysis.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = (BLUE, "#56B4E9", GREEN)
THEIRS = (ORANGE, PURPLE, GREY)
COLUMNS = 4


def draw(rows: Sequence[Row], entries: Sequence[str], peers: Sequence[str], path: Path) -> None:
    """Write a PNG with the first figure of each workload."""
    shown = _leading(rows)
    lines = -(-len(shown) // COLUMNS)
    figure = new_figure(3.2 * COLUMNS, 2.7 * lines)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    colors = _colors(entries, peers)
    for axes, row in zip(panels, shown, strict=False):
        _panel(axes, row, entries, colors)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _leading(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.workload, row)
    return list(first.values())


def _colors(entries: Sequence[str], peers: Sequence[str]) -> dict[str, str]:
    ours = [entry for entry in entries if entry not in peers]
    theirs = [entry for entry in entries if entry in peers]
    return {
        name: palette[index % len(palette)]
        for names, palette in ((ours, OURS), (theirs, THEIRS))
        for index, name in enumerate(names)
    }


def _panel(axes: Axes, row: Row, entries: Sequence[str], colors: dict[str, str]) -> None:
    scale = row.figure.scale
    for place, entry in enumerate(entries):
        spread = row.values.get(entry)
        if spread is None:
            continue
        middle = spread.median * scale
        whiskers = [[middle - spread.low * scale], [spread.high * scale - middle]]
        axes.bar(place, middle, color=colors[entry], yerr=whiskers, capsize=3)
    arrow = "higher" if row.figure.higher_is_better else "lower"
    unit = row.figure.unit
    axes.set_title(f"{row.workload} {row.figure.label} ({unit}), {arrow} is better", fontsize=9)
    axes.set_xticks(range(len(entries)), entries, rotation=30, ha="right", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
