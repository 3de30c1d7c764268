"""The sheet that panels are drawn on: Grafana's grid in pixels, its dark theme, text that fits.

Owns geometry and paint, knows no queries. Pixels count from the top left, as in Grafana.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

WIDTH = 1600
COLUMN = WIDTH / 24
CELL = 38  # 30 pixels and a margin of 8, as in Grafana
MARGIN = 8
TOP = 58
DPI = 100

PAGE = "#111217"
CARD = "#181B1F"
EDGE = "#2A2D33"
INK = "#D5D9E0"
FAINT = "#8E96A3"
GRID = "#2F333A"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels from the top left."""

    x: float
    y: float
    w: float
    h: float

    def inside(self, left: float, top: float, right: float, bottom: float) -> Box:
        """What is left within margins."""
        return Box(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


def box_of(place: dict[str, int]) -> Box:
    """Where a panel's ``gridPos`` lies on the sheet."""
    return Box(
        place["x"] * COLUMN + MARGIN / 2,
        TOP + place["y"] * CELL,
        place["w"] * COLUMN - MARGIN,
        place["h"] * CELL - MARGIN,
    )


class Canvas:
    """One sheet of ``rows`` grid rows."""

    def __init__(self, rows: int) -> None:
        self.height = TOP + rows * CELL + MARGIN
        size = (WIDTH / DPI, self.height / DPI)
        self.figure = Figure(figsize=size, dpi=DPI, facecolor=PAGE)

    def top_of(self, row: int) -> float:
        """Pixels above a grid row."""
        return float(TOP + row * CELL)

    def axes(self, box: Box) -> Axes:
        """Axes that fill ``box``, in the theme's colours."""
        axes = self.figure.add_axes(self._share(box))
        axes.set_facecolor("none")
        axes.tick_params(colors=FAINT, labelsize=8, length=0, pad=4)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes

    def move(self, axes: Axes, box: Box) -> None:
        """Let axes fill another box."""
        axes.set_position(self._share(box))

    def card(self, box: Box) -> None:
        """A panel's ground."""
        left, bottom, width, height = self._share(box)
        self.figure.add_artist(
            FancyBboxPatch(
                (left, bottom),
                width,
                height,
                boxstyle="square,pad=0",
                facecolor=CARD,
                edgecolor=EDGE,
                linewidth=0.8,
                zorder=0,
            )
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        colour: str = INK,
        bold: bool = False,
        right: bool = False,
    ) -> None:
        """Words whose baseline is at ``y``."""
        self.figure.text(
            x / WIDTH,
            1 - y / self.height,
            words.replace("$", r"\$"),
            fontsize=size,
            color=colour,
            fontweight="bold" if bold else "normal",
            ha="right" if right else "left",
            va="baseline",
        )

    def width_of(self, words: str, size: float) -> float:
        """Pixels that words take, near enough to place what follows."""
        return len(words) * size * DPI / 72 * 0.56

    def legend(self, box: Box, entries: Sequence[tuple[str, str, bool]]) -> None:
        """Names with their colours, dashed or not, from left to right, line by line."""
        x, y = box.x, box.y + 10
        for name, colour, dash in entries:
            width = 22 + self.width_of(name, 8) + 12
            if x + width > box.x + box.w and x > box.x:
                x, y = box.x, y + 15
            self._swatch(x, y, colour, dash)
            self.text(x + 20, y, name, 8, FAINT)
            x += width

    def legend_lines(self, width: float, names: Sequence[str]) -> int:
        """How many lines ``legend`` will take."""
        lines, x = 1, 0.0
        for name in names:
            step = 22 + self.width_of(name, 8) + 12
            if x + step > width and x > 0:
                lines, x = lines + 1, 0.0
            x += step
        return lines

    def _share(self, box: Box) -> tuple[float, float, float, float]:
        """A box as matplotlib counts: from the bottom left, of the whole sheet."""
        bottom = 1 - (box.y + box.h) / self.height
        return box.x / WIDTH, bottom, box.w / WIDTH, box.h / self.height

    def _swatch(self, x: float, y: float, colour: str, dash: bool) -> None:
        axes = self.axes(Box(x, y - 8, 14, 8))
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.plot([0, 1], [0.5, 0.5], color=colour, lw=2.5, ls=(0, (2, 1)) if dash else "-")
