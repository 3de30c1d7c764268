"""The Pareto plot: accuracy (or agreement) against prefill FLOPs saved, one line a policy.

Needs matplotlib (the extra `figures`). Colours are Okabe and Ito's, which the colour-blind tell
apart; every series has a marker of its own as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.errors import OptionError
from dyvte.evaluation.frontier import height
from dyvte.evaluation.tally import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "osD^vPX*<>"
ZOOM_BELOW, ZOOM_ABOVE = 0.05, 0.01


def check_figures() -> None:
    """Raise OptionError if matplotlib is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            "figure", "needs matplotlib: pip install 'dyvte[figures]', or leave it out: --no-figure"
        )


def draw_pareto(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a PNG: all settings on the left, the neighbourhood of no exit on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    whole, near = figure.subplots(1, 2)
    scored = all(row.accuracy is not None for row in rows)
    label = "accuracy" if scored else "answers as without exit"
    level = 100 * height(rows[0])
    for axes in (whole, near):
        _draw(axes, rows, labels=axes is near)
        axes.axhline(level, color="#666666", linewidth=1, linestyle=":", zorder=1)
        axes.set_xlabel("LLM prefill FLOPs saved, the policy's own cost counted (%)")
        axes.set_ylabel(f"{label} (%)")
        axes.grid(alpha=0.25, linewidth=0.6)
    best = 100 * max(height(row) for row in rows)
    near.set_ylim(level - 100 * ZOOM_BELOW, max(level, best) + 100 * ZOOM_ABOVE)
    whole.set_title("all settings", fontsize=10)
    near.set_title(f"within {100 * ZOOM_BELOW:g} points of no exit (dotted)", fontsize=10)
    handles, names = whole.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)  # a dollar begins no formula
    figure.savefig(path)


def _draw(axes: Axes, rows: Sequence[Row], labels: bool) -> None:
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row.series, []).append(row)
    for index, (name, points) in enumerate(series.items()):
        points = sorted(points, key=lambda row: row.prefill_saved)
        xs = [100 * row.prefill_saved for row in points]
        ys = [100 * height(row) for row in points]
        axes.plot(
            xs,
            ys,
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=6,
            linewidth=1.4,
            label=name,
            clip_on=True,
        )
        if labels:
            _label(axes, points, xs, ys, COLORS[index % len(COLORS)])


def _label(
    axes: Axes, points: Sequence[Row], xs: Sequence[float], ys: Sequence[float], color: str
) -> None:
    """The value of each point beside it: what follows the policy's name."""
    for number, (row, x, y) in enumerate(zip(points, xs, ys, strict=True)):
        text = row.name.removeprefix(row.series).lstrip(":") or row.name
        text = text.partition("+")[0].partition(":")[2] or text if "+" in row.name else text
        axes.annotate(
            text,
            (x, y),
            xytext=(4, 5 if number % 2 else -10),
            textcoords="offset points",
            fontsize=6.5,
            color=color,
            annotation_clip=True,
        )
