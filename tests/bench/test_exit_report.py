"""How much of a FLOPs saving shows as time, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import exits
from benchmarks.exit_report import NONE, Sample, row, text
from benchmarks.exits import exit_cases

ORIGIN = {"cpu": "c", "cores": 2, "date": "2026-01-01", "commit": "abc", "command": "x"}
ORIGIN |= {"threads": 2}


def rounds(*prefills: float) -> list[dict[str, Sample]]:
    """An exit that takes so long where none takes a second; it saves half of the FLOPs."""
    return [
        {
            NONE: Sample(1.0, 0.02, 1000, 800),
            "8 of 16": Sample(seconds, 0.01, 500, 400),
            "transformers": Sample(1.2, 0.03),
        }
        for seconds in prefills
    ]


def test_realised_is_the_time_saved_over_the_flops_saved() -> None:
    found = row("float32", 8, "8 of 16", rounds(0.55, 0.54, 0.9))
    assert (found.prefill_ratio, found.flops_ratio, found.kv_ratio) == (0.55, 0.5, 0.5)
    assert found.realised == pytest.approx(0.9)
    assert (found.rounds, found.step_ratio) == (3, 0.5)
    assert row("float32", 8, NONE, rounds(0.5)).realised is None
    peer = row("float32", 8, "transformers", rounds(0.5))
    assert (peer.flops_ratio, peer.realised, peer.kv_bytes) == (None, None, None)


def test_goals_depend_on_how_many_run_together() -> None:
    one, eight = (row("float32", count, "8 of 16", rounds(0.55)) for count in (1, 8))
    found = text([one, eight], ORIGIN, "tiny")
    assert "| float32 | 1 | 8 of 16 | 550 ms | 0.550 | 0.500 | **90%** |" in found
    assert "| float32 | 8 | 8 of 16 | 550 ms | 0.550 | 0.500 | 90% |" in found


def test_an_exit_is_called_by_how_many_layers_see_the_image() -> None:
    cases = exit_cases(16, None)
    assert list(cases) == [NONE, "8 of 16", "5 of 16"]
    assert [each.exit_layer for each in cases.values()] == [None, 7, 4]
    assert list(exit_cases(16, [0])) == [NONE, "1 of 16"]


def test_one_command_writes_figures_and_a_table(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "QUESTION_WORDS", 6)
    out = tmp_path / "runs" / "exits.json"
    command = f"--model {tiny_folder} --dtypes float32 --sequences 1 2 --exit-layers 1 --new 3"
    exits.main(f"{command} --rounds 2 --busy --json {out}".split())
    found = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(each["sequences"], each["case"]) for each in found] == [
        (count, case) for count in (1, 2) for case in (NONE, "2 of 4")
    ]
    assert all(each["flops_ratio"] < 1 for each in found if each["case"] != NONE)
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("| 2 of 4 |") == 2
