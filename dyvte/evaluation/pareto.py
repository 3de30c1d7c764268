"""The Pareto plot: accuracy, and changed answers, against prefill FLOPs saved; a line a policy.

Accuracy is drawn near that of no exit; what fell below is named at the lower edge. Changed answers
stand on a logarithmic scale, where no change at all is drawn as half an answer. Needs matplotlib
(the extra `figures`). Colours are Okabe and Ito's, which the colour-blind tell apart; every series
has a marker of its own as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.errors import OptionError
from dyvte.evaluation.tally import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "osD^vPX*<>ph"
ZOOM_BELOW, ZOOM_ABOVE = 5.0, 1.0  # points around the accuracy at no exit
LABEL_OFFSETS = ((5, 4), (5, -10), (-5, 4), (-5, -10))  # in points; left of the marker: aligned so

Value = Callable[[Row], float]


def check_figures() -> None:
    """Raise OptionError if matplotlib is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            "figure", "needs matplotlib: pip install 'dyvte[figures]', or leave it out: --no-figure"
        )


def draw_pareto(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a PNG. ``rows[0]`` is no exit; without right answers only changes are drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = all(row.accuracy is not None for row in rows)
    figure = Figure(figsize=(13.5 if scored else 8, 5.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, 2 if scored else 1, squeeze=False)[0])
    values = ([_accuracy] if scored else []) + [_changed]
    for axes, value in zip(panels, values, strict=True):
        _draw(axes, rows, value)
        axes.set_xlabel("LLM prefill FLOPs saved, the policy's own cost counted (%)")
        axes.set_xlim(left=-2)
        axes.grid(alpha=0.25, linewidth=0.6)
    if scored:
        _near_no_exit(panels[0], rows)
    panels[-1].set_yscale("log")
    panels[-1].yaxis.set_major_formatter("{x:g}")
    panels[-1].set_ylabel("answers that an exit changed (%, logarithmic)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)  # a dollar begins no formula
    _label_all(figure, panels, rows, values)
    figure.savefig(path)


def _accuracy(row: Row) -> float:
    return 100 * (row.accuracy or 0.0)


def _changed(row: Row) -> float:
    return 100 * max(row.changed, 0.5) / max(1, row.samples)


def _near_no_exit(axes: Axes, rows: Sequence[Row]) -> None:
    level = _accuracy(rows[0])
    floor = level - ZOOM_BELOW
    axes.set_ylim(floor, max(map(_accuracy, rows)) + ZOOM_ABOVE)
    axes.axhline(level, color="#666666", linewidth=1, linestyle=":", zorder=1)
    axes.set_ylabel("accuracy (%), dotted: no exit")
    below = [f"{row.name} {_accuracy(row):.1f}" for row in rows if _accuracy(row) < floor]
    if below:
        lines = [", ".join(below[k : k + 3]) for k in range(0, len(below), 3)]
        text = "below: " + ",\n".join(lines)
        axes.text(0.02, 0.02, text, transform=axes.transAxes, fontsize=7.5, color="#444444")


def _draw(axes: Axes, rows: Sequence[Row], value: Value) -> None:
    for index, points in enumerate(_series(rows)):
        axes.plot(
            [100 * row.prefill_saved for row in points],
            [value(row) for row in points],
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=6,
            linewidth=1.4,
            label=points[0].series,
            clip_on=True,
        )


def _series(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each policy in the order of their savings; policies as they first appear."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row.series, []).append(row)
    return [sorted(points, key=lambda row: row.prefill_saved) for points in series.values()]


def _label_all(
    figure: Figure, panels: Sequence[Axes], rows: Sequence[Row], values: Sequence[Value]
) -> None:
    """The setting beside each point, where it covers no other point's marker and no label."""
    figure.draw_without_rendering()  # places the panels, which pixels are counted in
    figure.set_layout_engine("none")
    for axes, value in zip(panels, values, strict=True):
        taken = [_marker(axes, row, value) for row in rows]
        for index, points in enumerate(_series(rows)):
            for row in points:
                if len(points) > 1 or row is rows[0]:
                    _label(axes, row, value, COLORS[index % len(COLORS)], taken)


def _marker(axes: Axes, row: Row, value: Value) -> Bbox:
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((100 * row.prefill_saved, value(row)))
    return Bbox.from_bounds(x - 6, y - 6, 12, 12)


def _label(axes: Axes, row: Row, value: Value, color: str, taken: list[Bbox]) -> None:
    for across, up in LABEL_OFFSETS:
        text = axes.annotate(
            _setting(row),
            (100 * row.prefill_saved, value(row)),
            xytext=(across, up),
            textcoords="offset points",
            ha="left" if across > 0 else "right",
            fontsize=7,
            color=color,
            annotation_clip=True,
        )
        box = text.get_window_extent()
        room = axes.get_window_extent()
        inside = room.contains(box.x0, box.y0) and room.contains(box.x1, box.y1)
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return
        text.remove()


def _setting(row: Row) -> str:
    """What follows the policy's name; of a chain, what its exit says."""
    if "+" in row.name:
        exit_name = row.name.partition("+")[0]
        return exit_name.partition(":")[2] or exit_name
    return row.name.removeprefix(row.series).lstrip(":") or row.name
