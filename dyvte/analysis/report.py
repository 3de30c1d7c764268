"""A study as files: one JSON with every number, one PNG per figure asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyvte.analysis.curves import draw_entropy, draw_score, draw_weights
from dyvte.analysis.grids import draw_exits, draw_heatmap
from dyvte.analysis.study import Study
from dyvte.analysis.style import literal, save
from dyvte.analysis.summary import as_json
from dyvte.params import ExitOptions

NUMBERS = "analysis.json"


def write_numbers(study: Study, out: Path, about: Mapping[str, Any]) -> Path:
    """``analysis.json``, floats to 6 decimals; NaN never appears in it. Raises OSError."""
    path = out / NUMBERS
    record = {**about, **as_json(study)}
    exact = json.dumps(record, allow_nan=False)
    short = json.loads(exact, parse_float=lambda text: round(float(text), 6))
    path.write_text(json.dumps(short) + "\n", encoding="utf-8")
    return path


def write_figures(study: Study, out: Path, title: str) -> list[Path]:
    """The figures that were asked for and have something to show. Raises OSError."""
    exit_name, title = name_of(study.options.exits), literal(title)
    made = {}
    wanted = study.options.figures if study.samples else frozenset()
    if "weights" in wanted:
        made["weights"] = draw_weights(study, title)
    if "score" in wanted:
        made["score"] = draw_score(study, title)
    if "entropy" in wanted:
        made["entropy"] = draw_entropy(study, title, exit_name)
    if "exits" in wanted:
        made["exits"] = draw_exits(study, title, exit_name)
    if study.heat is not None:
        made["heatmap"] = draw_heatmap(study.heat, title)
    paths = []
    for name, figure in made.items():
        paths.append(out / f"{name}.png")
        save(figure, paths[-1])
    return paths


def name_of(exits: ExitOptions) -> str:
    """``gate 0.5``, ``fixed 7``: the exit in a figure's words."""
    value = exits.exit_layer if exits.policy == "fixed" else exits.aggressiveness
    return exits.policy if value is None else f"{exits.policy} {value:g}"
