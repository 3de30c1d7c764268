"""The cost curves as tables and as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.page import MIB, circumstances_of, table
from benchmarks.points import BATCH, LAYERS, START, TOKENS, Point, Points
from dyvte.analysis.style import BLUE, GREEN, ORANGE, PURPLE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKER = "curves"
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (PURPLE, "^"))

Lines = Mapping[int, Mapping[int, float]]


def name_of(seen: int, depth: int) -> str:
    """As tables and pictures call an exit: none where all ``depth`` layers see the image."""
    return "no exit" if seen == depth else f"in {seen} of {depth} layers"


def text(points: Points) -> str:
    """All tables that there are points for."""
    parts = [_circumstances(points)] if points.kept() else []
    if found := points.medians(LAYERS, _milliseconds):
        parts.append(_layers(points, found))
    if found := points.medians(TOKENS, _milliseconds):
        kv = points.medians(TOKENS, _kv)
        parts += ["Prefill (ms, without the vision tower) against visual tokens:", _grid(found)]
        parts += ["Keys and values of one request (MiB):", _grid(kv)]
    if found := points.medians(BATCH, _request):
        parts += ["Time per request (ms, 16 tokens) against the batch:", _grid(found)]
        step = points.medians(BATCH, lambda point: 1000 * point.step)
        parts += ["Decode step of the whole batch (ms):", _grid(step)]
    if found := points.medians(START, lambda point: point.seconds):
        memory = points.medians(START, lambda point: point.memory_bytes / MIB)
        parts.append(
            f"`dyvte serve` with this model: {found[0][0]:.1f} s from start to first reply, "
            f"{memory[0][0]:.0f} MiB (proportional set size) then."
        )
    return "\n\n".join(parts)


def _circumstances(points: Points) -> str:
    kept, sessions = points.kept(), points.sessions()
    commits = ", ".join(dict.fromkeys(str(each["commit"]) for each in sessions))
    rounds = len({place.round for place in kept})
    last = sessions[-1] | {"commit": commits}
    return (
        f"{circumstances_of(last)}: {last['threads']} threads; "
        f"medians of up to {rounds} rounds, {len(kept)} points kept, "
        f"{len(points.read()) - len(kept)} discarded as disturbed."
    )


def draw(points: Points, path: Path) -> None:
    """Write a PNG of four panels."""
    figure = new_figure(11, 7)
    panels = figure.subplots(2, 2).flatten()
    tokens = points.medians(TOKENS, _milliseconds)
    _lines(panels[0], tokens, "visual tokens", "prefill (ms)")
    _lines(panels[1], points.medians(TOKENS, _kv), "visual tokens", "keys and values (MiB)")
    batch = points.medians(BATCH, _request)
    _lines(panels[2], batch, "requests at once", "time per request (ms)")
    panels[2].set_xscale("log", base=2)
    panels[2].xaxis.set_major_formatter("{x:g}")
    _shares(panels[3], points)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _milliseconds(point: Point) -> float:
    return 1000 * point.prefill


def _request(point: Point) -> float:
    return 1000 * point.seconds


def _kv(point: Point) -> float:
    return point.kv_bytes / MIB


def _grid(lines: Lines) -> str:
    xs = sorted({x for line in lines.values() for x in line})
    depth = max(lines)
    rows = [
        [name_of(seen, depth), *(f"{line[x]:.4g}" if x in line else "–" for x in xs)]
        for seen, line in sorted(lines.items(), reverse=True)
    ]
    return table(["", *map(str, xs)], rows)


def _layers(points: Points, found: Lines) -> str:
    """Prefill and its FLOPs, decode step, keys and values, against the layers that see an image."""
    flops = _flat(points.medians(LAYERS, lambda point: point.prefill_flops))
    step = _flat(points.medians(LAYERS, lambda point: 1000 * point.step))
    kv, times = _flat(points.medians(LAYERS, _kv)), _flat(found)
    whole = max(times)
    rows = [
        [
            str(seen),
            f"{time:.0f}",
            f"{time / times[whole]:.3f}",
            f"{flops[seen] / flops[whole]:.3f}",
            f"{step[seen]:.1f}",
            f"{kv[seen]:.1f}",
        ]
        for seen, time in sorted(times.items())
    ]
    head = ["layers that see the image", "prefill (ms)", "ratio", "FLOPs ratio"]
    return table([*head, "decode step (ms)", "keys and values (MiB)"], rows)


def _flat(lines: Lines) -> dict[int, float]:
    return {x: value for line in lines.values() for x, value in line.items()}


def _lines(axes: Axes, lines: Lines, across: str, up: str) -> None:
    ordered = sorted(lines.items(), reverse=True)
    for (seen, line), (color, marker) in zip(ordered, LOOKS, strict=False):
        label = name_of(seen, max(lines))
        axes.plot(list(line), list(line.values()), label=label, color=color, marker=marker)
    _finish(axes, across, up)


def _shares(axes: Axes, points: Points) -> None:
    """Prefill time, its FLOPs, and keys and values, as shares of those without an exit."""
    series: tuple[tuple[str, str, str, Callable[[Point], float]], ...] = (
        ("prefill time", BLUE, "o", _milliseconds),
        ("prefill FLOPs", ORANGE, "s", lambda point: point.prefill_flops),
        ("keys and values", PURPLE, "^", _kv),
    )
    for label, color, marker, of in series:
        line = dict(sorted(_flat(points.medians(LAYERS, of)).items()))
        if line:
            shares = [value / line[max(line)] for value in line.values()]
            axes.plot(list(line), shares, color=color, marker=marker, label=label)
    axes.set_ylim(0, 1.08)
    _finish(axes, "layers that see the image", "share of no exit")


def _finish(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
