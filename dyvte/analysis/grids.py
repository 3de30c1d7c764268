"""The figures that are grids: exit layers per kind of question, and attention itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from dyvte.analysis.style import literal, new_figure
from dyvte.analysis.summary import NEVER, exit_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dyvte.analysis.heatmap import HeatMap
    from dyvte.analysis.study import HeatPair, Study

FAINTEST = 1e-3  # of the attention heat-map; below this all is one colour
UNDER = 1e-6  # stands for 0, which a logarithm cannot show


def draw_exits(study: Study, title: str, exit_name: str) -> Figure:
    """Where the image left, one row per kind of question, in percent of the kind."""
    counts = _with_all(exit_counts(study))
    columns = [*range(study.num_layers), NEVER]
    figure = new_figure(2.8 + 0.42 * len(columns), 1.7 + 0.28 * len(counts))
    axes = figure.subplots()
    shares = np.array(
        [
            [100 * each.get(column, 0) / sum(each.values()) for column in columns]
            for each in counts.values()
        ]
    )
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share:
            color = "white" if share > 55 else "black"
            axes.text(
                column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color
            )
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#CCCCCC", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xticks(range(len(columns)), [*map(str, columns[:-1]), "never"], fontsize=8)
    axes.set_yticks(
        range(len(counts)), [literal(_kind(*item)) for item in counts.items()], fontsize=8
    )
    axes.set_xlabel("exit after layer (0-based)")
    figure.colorbar(image, ax=axes, label="questions of the kind (%)", fraction=0.05, pad=0.02)
    axes.set_title(f"{title}\nWhere the image leaves ({exit_name})", fontsize=9)
    return figure


def _with_all(counts: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    """All questions together on top, where there are several kinds."""
    if len(counts) < 2:
        return counts
    total: Counter[int] = Counter()
    for each in counts.values():
        total.update(each)
    return {"all": dict(total), **counts}


def _kind(name: str, counts: dict[int, int]) -> str:
    """``colour (n = 41, mean 5.3)``: the mean of those that left."""
    left = [(layer, count) for layer, count in counts.items() if layer != NEVER]
    total = sum(count for _, count in left)
    mean = f", mean {sum(a * b for a, b in left) / total:.1f}" if total else ""
    return f"{name} (n = {sum(counts.values())}{mean})"


def draw_heatmap(pair: HeatPair, title: str) -> Figure:
    """Attention at some layers: above with the image, below with the image gone."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    layers = list(pair.whole.grids)
    figure = new_figure(2.5 * len(layers) + 1.1, 5.9)
    rows = figure.subplots(2, len(layers), squeeze=False)
    norm = LogNorm(FAINTEST, 1.0)
    colors = colormaps["cividis"].with_extremes(bad="#C8C8C8", under="white")
    image = None
    for axes_row, heat in zip(rows, (pair.whole, pair.cut), strict=True):
        for axes, layer in zip(axes_row, layers, strict=True):
            grid = heat.grids[layer].numpy()
            # Only what lies in the future weighs exactly 0, and only that is drawn as "under".
            shown = np.where(grid > 0, np.maximum(grid, 1.001 * FAINTEST), grid + UNDER)
            image = axes.imshow(shown, cmap=colors, norm=norm, interpolation="nearest")
            _mark_parts(axes, heat)
            axes.set_title(f"layer {layer}", fontsize=9)
    rows[0, 0].set_ylabel("with the image\nquery", fontsize=9)
    rows[1, 0].set_ylabel(f"image gone after layer {pair.exit_layer}\nquery", fontsize=9)
    for axes in rows[-1]:
        axes.set_xlabel("key", fontsize=9)
    assert image is not None, "there is at least one layer"
    bar = figure.colorbar(image, ax=rows, shrink=0.7)
    bar.set_label("attention (strongest head, strongest weight of a cell)", fontsize=8)
    question = pair.question if len(pair.question) <= 90 else pair.question[:87] + "…"
    figure.suptitle(
        f"{title}\nAttention for “{literal(question)}” ({literal(pair.sample)}); a text row is a "
        "cell, an image is binned; white: the future, grey: rows that have left",
        fontsize=9,
    )
    return figure


def _mark_parts(axes: Axes, heat: HeatMap) -> None:
    """Lines between the parts of the prompt, and their names."""
    parts = heat.cells.parts
    for part in parts[1:]:
        for line in (axes.axvline, axes.axhline):
            line(part.start - 0.5, color="#D55E00", linewidth=0.8)
    middles = [(part.start + part.stop - 1) / 2 for part in parts]
    names = [part.name for part in parts]
    axes.set_xticks(middles, names, fontsize=7)
    axes.set_yticks(middles, names, fontsize=7, rotation=90, va="center")
    axes.tick_params(length=0)
