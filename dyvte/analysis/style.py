"""How the figures look: colours that the colour-blind tell apart, the stages of the paper, files.

Needs matplotlib (the extra `figures`). Figures are made without pyplot, which keeps state of its
own. Colours are Okabe and Ito's; every line has a marker as well.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
DPI = 100

# Of 32 layers (LLaVA-1.5-7B), counted from 0, as the paper tells them; they overlap there too.
STAGES = (
    ("early fusion", 0, 3, "#E69F00"),
    ("within each modality", 2, 12, "#56B4E9"),
    ("multimodal reasoning", 10, 31, "#009E73"),
)
PAPER_LAYERS = 32


def check_matplotlib() -> None:
    """Raise OptionError if matplotlib is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            "out",
            "cannot hold figures: matplotlib is missing; pip install 'dyvte[figures]', or "
            "give --no-png for the numbers alone",
        )


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """Words of a user's, in which a dollar begins no formula (matplotlib fails on a broken one)."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without a date in it, so that the same numbers give the same file."""
    figure.savefig(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def layer_axis(axes: Axes, num_layers: int) -> None:
    """The x axis of every curve: layers from 0, whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.5, num_layers - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.set_xlabel("decoder layer (0-based)")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)


def shade_stages(axes: Axes, num_layers: int) -> None:
    """The paper's three stages behind a plot, as shares of the depth, with a name on top."""
    scale = num_layers / PAPER_LAYERS
    for row, (name, first, last, color) in enumerate(STAGES):
        left, right = first * scale - 0.5, (last + 1) * scale - 0.5
        axes.axvspan(left, right, color=color, alpha=0.10, linewidth=0)
        axes.annotate(
            name,
            (max(left, -0.5), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -11 - 10 * row),
            textcoords="offset points",
            fontsize=7,
            color=GREY,
        )
