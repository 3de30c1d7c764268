"""A whole sweep over a data file, and what it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dyvte
from dyvte.data import Skips, read_samples
from dyvte.errors import OptionError
from dyvte.evaluation.pareto import draw_pareto
from dyvte.evaluation.report import as_histogram, as_table, write_results
from dyvte.evaluation.settings import parse_all
from dyvte.evaluation.sweep import Progress, SweepConfig, Swept, sweep
from dyvte.flops import macs_visual
from dyvte.params import SamplingParams

SAMPLING = SamplingParams(max_tokens=3, temperature=0)


def swept(
    model: dyvte.Model, data: Path, *specs: str, progress: Progress | None = None, **settings: Any
) -> Swept:
    wanted = parse_all(specs, ("fastv",), {})
    config = SweepConfig(wanted, SAMPLING, **{"batch": 3, "timed": 1, "rounds": 1} | settings)
    skips = Skips()
    return sweep(model, read_samples(data, None, skips), config, skips, progress)


def test_rows_account_for_every_sample(tiny_model: dyvte.Model, data: Path) -> None:
    done = swept(tiny_model, data, "gate:0.5", "fixed:0,3", "fastv:2/0.5")
    for row in done.rows:
        assert row.samples == row.scored == 8
        assert sum(row.exits.values()) == 8
        assert row.accuracy_by_kind.keys() == {"even", "odd"}
        assert row.changed_upper >= row.changed_share
    off, *others = done.rows
    assert (off.changed, off.prefill_saved, off.exits) == (0, 0.0, {-1: 8})
    early = next(row for row in others if row.name == "fixed:0")
    last = next(row for row in others if row.name == "fixed:3")
    assert early.prefill_saved > 0.15
    assert last.prefill_saved == 0.0
    assert (last.changed, last.exits) == (0, {3: 7, -1: 1})


def test_conventions_count_what_they_say(tiny_model: dyvte.Model, data: Path) -> None:
    off, fixed, pruned = swept(tiny_model, data, "fixed:1", "fastv:2/0.5").rows
    assert off.flops["macs_visual"] == off.flops["macs_visual_full"]
    shape = tiny_model.adapter.decoder
    # Seven of eight samples have a picture of nine rows, and see it in two of four layers.
    assert fixed.flops["macs_visual"] == pytest.approx(macs_visual(shape, 9, 2) * 7 / 8)
    assert fixed.flops["paper"] > fixed.flops["llm_prefill"]
    assert fixed.flops["policy"] == 0 < pruned.flops["policy"]


def test_only_some_are_timed_and_it_is_told_how_many(tiny_model: dyvte.Model, data: Path) -> None:
    done = swept(tiny_model, data, "fixed:1", timed=2, rounds=2)
    assert done.timed == 2
    assert all(row.seconds["prefill"] > 0 for row in done.rows)
    assert done.rows[0].seconds["prefill_ratio"] == 1
    untimed = swept(tiny_model, data, "fixed:1", timed=0)
    assert all(row.seconds == {} for row in untimed.rows)


def test_answers_are_told_one_by_one(tiny_model: dyvte.Model, data: Path) -> None:
    told: list[dict[str, Any]] = []
    counts: list[int] = []
    swept(tiny_model, data, "fixed:1", progress=Progress(counts.append, told.append))
    assert counts == [3, 3, 2]
    assert [row["id"] for row in told[:4]] == ["r0", "r0", "r1", "r1"]
    assert {row["setting"] for row in told} == {"off", "fixed:1"}


def test_a_row_that_the_model_cannot_take_is_reported(
    tiny_model: dyvte.Model, data: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 400}], "answer": "y"}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(long)}\nno json\n" + data.read_text())
    skips = Skips()
    config = SweepConfig(parse_all(["off"], (), {}), SAMPLING, timed=0)
    done = sweep(tiny_model, read_samples(path, data.parent, skips), config, skips)
    assert done.rows[0].samples == 8
    assert sorted(skip.line for skip in skips.rows) == [1, 2]


def test_without_right_answers_there_is_agreement_alone(
    tiny_model: dyvte.Model, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    path.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows))
    skips, config = Skips(), SweepConfig(parse_all(["fixed:0"], (), {}), SAMPLING, timed=0)
    done = sweep(tiny_model, read_samples(path, data.parent, skips), config, skips)
    assert [(row.accuracy, row.scored) for row in done.rows] == [(None, 0)] * 2
    draw_pareto(done.rows, tmp_path / "p.png", "no answers")
    assert "| off |  |  | 0.0%" in as_table(done.rows)


def test_what_the_model_cannot_grant_is_refused(tiny_model: dyvte.Model, data: Path) -> None:
    with pytest.raises(OptionError, match=r"fixed:9.*out of range"):
        swept(tiny_model, data, "fixed:9")


def test_the_files_hold_every_setting(tiny_model: dyvte.Model, data: Path, tmp_path: Path) -> None:
    done = swept(tiny_model, data, "gate:0.3,0.5,0.7", "fixed:0-2")
    write_results(tmp_path, done.rows, {"model": "tiny"})
    draw_pareto(done.rows, tmp_path / "pareto.png", "tiny")
    record = json.loads((tmp_path / "results.json").read_text())
    names = [row.name for row in done.rows]
    assert record["model"] == "tiny"
    assert [setting["name"] for setting in record["settings"]] == names
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == names
    for column in ("accuracy_even", "changed_upper", "prefill_saved", "flops_paper", "kv_bytes"):
        assert all(float(line[column]) >= 0 for line in lines)
    with Image.open(tmp_path / "pareto.png") as figure:
        assert figure.size > (800, 400)
        colors = figure.convert("RGB").getcolors(1 << 20)
        assert colors is not None
        assert len(colors) > 100


def test_the_histogram_has_a_column_a_layer(tiny_model: dyvte.Model, data: Path) -> None:
    done = swept(tiny_model, data, "fixed:1,3", timed=0)
    assert as_histogram(done.rows).splitlines() == [
        "| setting | after 1 | after 3 | never |",
        "| --- | --- | --- | --- |",
        "| off |  |  | 8 |",
        "| fixed:1 | 7 |  | 1 |",
        "| fixed:3 |  | 7 | 1 |",
    ]
