"""Panels as pictures: stat, time series and heat-map, from a panel's JSON and its series.

What a panel's field overrides say about colours, dashes and stacks is honoured; other options
are Grafana's own business.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from deploy.grafana.queries import Json, Series
from deploy.grafana.render.canvas import FAINT, GRID, INK, Box, Canvas, box_of
from deploy.grafana.render.units import text_of

TICKS = (10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)  # seconds
LEFT = 56  # pixels for the labels of an axis, at least
PALETTE = ("#56A64B", "#F2A93B", "#3D8BFD", "#F2842B", "#E02F44", "#2BB3C0", "#E0679B", "#A16AE8")


@dataclass(frozen=True, slots=True)
class Line:
    """A series with the name and the looks that its panel gives it."""

    name: str
    series: Series
    colour: str
    dash: bool


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is drawn, in Unix seconds."""

    start: float
    end: float
    step: float


def draw(canvas: Canvas, panel: Json, named: Sequence[tuple[str, Series]], span: Span) -> None:
    """Draw one panel at its place."""
    box = box_of(panel["gridPos"])
    canvas.card(box)
    canvas.text(box.x + 12, box.y + 21, panel["title"], 9.5, INK, bold=True)
    lines = [
        Line(name, series, *_looks(panel, name, number))
        for number, (name, series) in enumerate(named)
    ]
    kinds = {"stat": _stat, "timeseries": _time_series, "heatmap": _heatmap}
    kinds[panel["type"]](canvas, panel, box, lines, span)


def _looks(panel: Json, name: str, number: int) -> tuple[str, bool]:
    colour, dash = PALETTE[number % len(PALETTE)], False
    for override in panel["fieldConfig"]["overrides"]:
        if not re.search(override["matcher"]["options"].strip("/"), name):
            continue
        for each in override["properties"]:
            if each["id"] == "color":
                colour = each["value"]["fixedColor"]
            dash = dash or each["id"] == "custom.lineStyle"
    return colour, dash


def _stat(canvas: Canvas, panel: Json, box: Box, lines: Sequence[Line], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    value = lines[0].series.last if lines else math.nan
    colour = FAINT
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"] if not math.isnan(value) else FAINT
    words = text_of(value, defaults["unit"], defaults.get("decimals"))
    words = defaults["noValue"] if math.isnan(value) else words
    canvas.text(box.x + 14, box.y + 72, words, 24 if len(words) < 11 else 18, colour, bold=True)
    if panel["options"]["graphMode"] == "area" and lines and not math.isnan(value):
        _sparkline(canvas.axes(box.inside(1, 84, 1, 1)), lines[0].series, colour, span)


def _sparkline(axes: Axes, series: Series, colour: str, span: Span) -> None:
    finite = [
        (time, value)
        for time, value in zip(series.times, series.values, strict=True)
        if math.isfinite(value)
    ]
    times, values = zip(*finite, strict=True)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.axis("off")
    axes.plot(times, values, color=colour, lw=1.3)
    axes.fill_between(times, values, low, color=colour, alpha=0.18, lw=0)
    axes.set(xlim=(span.start, span.end), ylim=(low, high + 0.15 * (high - low) or 1))


def _time_series(canvas: Canvas, panel: Json, box: Box, lines: Sequence[Line], span: Span) -> None:
    rows = canvas.legend_lines(box.w - 24, [line.name for line in lines])
    below = 32 + 15 * rows
    axes = canvas.axes(box.inside(LEFT, 38, 16, below))
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    grid = np.arange(span.start, span.end + span.step / 2, span.step)
    floor = np.zeros_like(grid)
    for line in lines:
        values = _on_grid(line.series, grid)
        if stacked and not line.dash:
            top = floor + np.nan_to_num(values)
            axes.fill_between(grid, floor, top, color=line.colour, alpha=0.7, lw=0)
            floor = top
            continue
        style = (0, (5, 3)) if line.dash else "-"
        axes.plot(grid, values, color=line.colour, lw=1.8, ls=style)
        if not line.dash:
            axes.fill_between(grid, values, 0, color=line.colour, alpha=0.06, lw=0)
    _limits(axes, defaults)
    _furnish(axes, span, defaults["unit"])
    labels = [text_of(tick, defaults["unit"]) for tick in axes.get_yticks()]
    left = max(LEFT, 22 + max(canvas.width_of(label, 8) for label in labels))
    canvas.move(axes, box.inside(left, 38, 16, below))
    entries = [(line.name, line.colour, line.dash) for line in lines]
    canvas.legend(Box(box.x + 12, box.y + box.h - 8 - 15 * rows, box.w - 24, 0), entries)
    if not lines:
        canvas.text(box.x + box.w / 2 - 25, box.y + box.h / 2, "No data", 10, FAINT)


def _heatmap(canvas: Canvas, panel: Json, box: Box, lines: Sequence[Line], span: Span) -> None:
    axes = canvas.axes(box.inside(LEFT, 38, 16, 34))
    grid = np.arange(span.start, span.end + span.step / 2, span.step)
    ordered = sorted(lines, key=lambda line: float(line.name.replace("+Inf", "inf")))
    ordered = [line for line in ordered if line.name != "+Inf"]
    cumulative = np.array([np.nan_to_num(_on_grid(line.series, grid)) for line in ordered])
    if not len(ordered):
        return
    counts = np.diff(cumulative, axis=0, prepend=np.zeros((1, len(grid)))).clip(min=0)
    edges = np.arange(len(ordered) + 1) - 0.5
    times = np.append(grid, grid[-1] + span.step) - span.step / 2
    axes.pcolormesh(
        times,
        edges,
        np.ma.masked_less(np.sqrt(counts), 1e-3),
        cmap="viridis",
        edgecolors="#181B1F",
        linewidth=0.4 if len(grid) < 120 else 0,
    )
    _furnish(axes, span, "")
    every = max(1, math.ceil(len(ordered) / 12))
    shown = range(0, len(ordered), every)
    unit = panel["options"]["yAxis"]["unit"]
    axes.set_yticks(list(shown), [text_of(float(ordered[i].name), unit) for i in shown])
    axes.set_ylim(edges[0], edges[-1])
    axes.grid(visible=False)


def _on_grid(series: Series, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at the grid's times; NaN where the series has none."""
    step = grid[1] - grid[0]
    values = np.full(len(grid), np.nan)
    for time, value in zip(series.times, series.values, strict=True):
        at = round((time - grid[0]) / step)
        if 0 <= at < len(grid):
            values[at] = value
    return values


def _limits(axes: Axes, defaults: Json) -> None:
    low, high = axes.get_ylim()
    low = defaults.get("min", low)
    high = defaults.get("max", high)
    axes.set_ylim(low, high if high > low else low + 1)


def _furnish(axes: Axes, span: Span, unit: str) -> None:
    axes.set_xlim(span.start, span.end)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, unit)))
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    room = axes.bbox.width / 90
    every = next((each for each in TICKS if (span.end - span.start) / each <= room), TICKS[-1])
    axes.xaxis.set_major_locator(MultipleLocator(every))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value, span)))


def _clock(value: float, span: Span) -> str:
    moment = dt.datetime.fromtimestamp(value, dt.UTC)
    return moment.strftime("%H:%M:%S" if span.end - span.start < 600 else "%H:%M")
