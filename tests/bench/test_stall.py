"""The benchmarks of stalls and of how many run at once, on the smallest model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import dyvte
from benchmarks import concurrency, stall
from benchmarks.machine import Origin
from benchmarks.model import PRESETS
from tests import tiny
from tests.bench.test_gpu import DRY

ROW = stall.Row(
    knob_ms=100.0,
    exit="off",
    visual_tokens=2880,
    quiet_p50=40.0,
    quiet_p99=50.0,
    p50=100.0,
    p99=149.0,
    worst=200.0,
    gaps=300,
    ttft_s=20.0,
    others=0.01,
)


def test_p99_stays_under_the_quiet_one_plus_the_knob() -> None:
    late, without = replace(ROW, p99=150.0), replace(ROW, knob_ms=0.0, p99=11_000.0)
    assert [each.holds for each in (ROW, late, without)] == [True, False, True]
    found = stall.text([ROW, late, without], Origin.here(["x"], 0, "cpu"), "tiny")
    assert "| 2880 | none | 100 | 40 / 50 | 100 / **149** | 150 | 200 | 300 |" in found
    assert "| 2880 | none | 100 | 40 / 50 | 100 / 150 | 150 | 200 | 300 |" in found
    assert "| 2880 | none | none | 40 / 50 | 100 / 11000 |  | 200 | 300 |" in found


def test_p99_is_a_gap_that_was_seen() -> None:
    assert stall.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert stall.quantile(range(1, 201), 0.99) == 198
    assert stall.quantile([7.0], 0.99) == 7.0


def test_what_upper_layers_never_needed_serves_further_requests(tiny_model: dyvte.Model) -> None:
    """Four pages a layer that sees the images, else one: 16 a request, or 10, or 7 of 128.

    A request is admitted where its 16 are free and one a layer for each that runs.
    """
    prompts = [tiny.prompt(seed, images=20) for seed in range(16)]
    found = list(concurrency.measure(tiny_model, prompts, requests=8, new=8))
    assert [(row.seen, row.most) for row in found] == [(4, 8), (2, 9), (1, 11)]
    told = concurrency.text(found, Origin.here(["x"], 0, "cpu"), "tiny", 8, 8)
    assert "| 2 of 4 | 9 |" in told


def test_one_command_measures_every_knob_and_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "dry", DRY)
    out = tmp_path / "runs" / "stall.json"
    command = f"--preset dry --models {tmp_path} --visual-tokens 8 --exits off 1 --knobs 0 10000"
    assert stall.main(f"{command} --arrivals 1 --quiet 3 --out {out}".split()) == 0
    found = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["exit"], row["knob_ms"]) for row in found] == [
        (name, knob) for name in ("off", "1") for knob in (0.0, 10_000.0)
    ]
    assert {row["visual_tokens"] for row in found} == {8}
    assert all(row["gaps"] >= 1 and 0 < row["p50"] <= row["worst"] for row in found)
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("| after layer 1 |") == 2
