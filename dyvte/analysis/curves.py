"""The figures that are curves over layers: weights, forced exits, entropies."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from dyvte.analysis.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    layer_axis,
    new_figure,
    shade_stages,
)
from dyvte.analysis.summary import Point, Share, curve, score_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dyvte.analysis.study import Study

WEIGHTS = (
    ("w_visual", "$W_{visual}$: image → image", BLUE, "o"),
    ("w_cross", "$W_{cross}$: text → image", ORANGE, "s"),
    ("w_text", "$W_{text}$: text → text", GREEN, "^"),
)


def draw_weights(study: Study, title: str) -> Figure:
    """W_visual, W_cross and W_text per layer, no exit; bars are two standard errors."""
    figure = new_figure(8.6, 4.4)
    axes = figure.subplots()
    for name, label, color, marker in WEIGHTS:
        points = curve(study, attrgetter("without"), attrgetter(name))
        _line(axes, points, label, color, marker, "-")
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=1.22 * axes.get_ylim()[1])  # room for the names of the stages
    layer_axis(axes, study.num_layers)
    shade_stages(axes, study.num_layers)
    axes.set_ylabel("attention weight per query row\n(strongest head, summed over keys)")
    axes.set_title(
        f"{title}\nWhere attention goes, without an exit, {_mean_of(study)}\n"
        "shaded: the stages of LLaVA-1.5-7B in the paper, scaled to this depth",
        fontsize=9,
    )
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_score(study: Study, title: str) -> Figure:
    """Accuracy and agreement with no exit against the layer where the exit is forced."""
    found = score_curve(study.samples)
    assert found is not None, "drawn only if answers were asked for"
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    if found.accuracy is not None and found.whole is not None:
        _shares(axes, found.layers, found.accuracy, "accuracy", BLUE, "o")
        axes.axhline(
            100 * found.whole.share,
            color=BLUE,
            linestyle=":",
            linewidth=1.2,
            label=f"accuracy without exit: {found.whole.share:.1%}",
        )
    _shares(axes, found.layers, found.agreement, "same answer as without exit", ORANGE, "s")
    layer_axis(axes, study.num_layers)
    axes.set_ylim(0, 104)
    axes.set_xlabel("exit forced after layer (0-based)")
    axes.set_ylabel("share of answers (%)")
    axes.set_title(
        f"{title}\nScore against a forced exit, {len(study.samples)} questions; "
        "bands: 95 % intervals (Wilson)",
        fontsize=9,
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def draw_entropy(study: Study, title: str, exit_name: str) -> Figure:
    """Entropy of text→image and of text→text attention, without and with the exit."""
    figure = new_figure(9.6, 4.4)
    panels = (
        ("cross_entropy", "text → image", ORANGE),
        ("text_entropy", "text → text", GREEN),
    )
    for axes, (name, heading, color) in zip(figure.subplots(1, 2), panels, strict=True):
        kept = curve(study, attrgetter("without"), attrgetter(name))
        left = curve(study, attrgetter("exited"), attrgetter(name))
        _line(axes, kept, "without exit", color, "o", "-")
        _line(axes, left, f"with exit ({exit_name})", PURPLE, "X", "--")
        layer_axis(axes, study.num_layers)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("entropy of a text row's attention (bits)")
        axes.set_title(heading, fontsize=9)
        axes.legend(fontsize=8, frameon=False, loc="best")
    figure.suptitle(
        f"{title}\nHow spread the attention of text rows is, {_mean_of(study)}\n"
        "with an exit, text → image is the mean over the prompts whose image is still there",
        fontsize=9,
    )
    return figure


def _mean_of(study: Study) -> str:
    return f"mean of {len(study.samples)} prompts (bars: ±2 standard errors)"


def _line(
    axes: Axes, points: Sequence[Point], label: str, color: str, marker: str, style: str
) -> None:
    seen = [(layer, p.mean, p.error) for layer, p in enumerate(points) if p.mean is not None]
    axes.errorbar(
        [layer for layer, _, _ in seen],
        [mean for _, mean, _ in seen],
        yerr=[2 * (error or 0.0) for _, _, error in seen],
        color=color,
        marker=marker,
        linestyle=style,
        markersize=4.5,
        linewidth=1.5,
        elinewidth=1,
        capsize=2,
        label=label,
    )


def _shares(
    axes: Axes, layers: Sequence[int], shares: Sequence[Share], label: str, color: str, marker: str
) -> None:
    low, high = ([100 * end(share) for share in shares] for end in (_low, _high))
    axes.fill_between(layers, low, high, color=color, alpha=0.15, linewidth=0)
    heights = [100 * share.share for share in shares]
    axes.plot(layers, heights, color=color, marker=marker, markersize=5, linewidth=1.5, label=label)


_low, _high = attrgetter("low"), attrgetter("high")
