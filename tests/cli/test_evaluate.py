"""`dyvte evaluate` as it is typed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyvte.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions about one picture."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (12, 12), "red").save(folder / "p.png")
    part = {"type": "image_url", "image_url": {"url": "p.png"}}
    rows = [
        {
            "messages": [{"role": "user", "content": [part, {"type": "text", "text": text}]}],
            "answer": "red",
        }
        for text in ("a?", "b?", "c?")
    ]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(folder: Path, data: Path, out: Path, *more: str) -> int:
    argv = ["evaluate", "--model", str(folder), "--data", str(data), "--out", str(out)]
    return main([*argv, "--max-tokens", "2", "--dtype", "float32", "--device", "cpu", *more])


def test_it_writes_files_and_prints_the_table(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    specs = ["--policies", "gate:0.5", "fixed:1", "--timed", "1", "--rounds", "1", "--answers"]
    assert evaluate(tiny_folder, data, out, *specs) == 0
    assert capsys.readouterr().out.startswith("| setting | accuracy |")
    names = {path.name for path in out.iterdir()}
    assert names == {"results.json", "results.csv", "table.md", "pareto.png", "answers.jsonl"}
    record = json.loads((out / "results.json").read_text())
    assert record["provenance"]["command"].startswith("dyvte evaluate --model")
    assert (record["timed_samples"], record["samples"], record["dtype"]) == (1, 3, "float32")
    assert len((out / "answers.jsonl").read_text().splitlines()) == 9


def test_without_policies_it_takes_a_first_look(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    assert evaluate(tiny_folder, data, tmp_path, "--timed", "0", "--no-figure") == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert {row["series"] for row in record["settings"]} == {"off", "fixed", "gate"}
    assert not (tmp_path / "pareto.png").exists()


def test_malformed_rows_are_told_and_passed_over(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"answer": "red"}\n' + data.read_text())
    images = ["--images", str(data.parent), "--policies", "off", "--timed", "0"]
    assert evaluate(tiny_folder, path, tmp_path / "out", *images) == 0
    assert "dyvte evaluate: skipped line 1: a row needs" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (record["samples"], len(record["skipped"])) == (3, 1)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--policies", "gate:2"], "--policies 'gate:2': aggressiveness must be between 0 and 1"),
        (["--policies", "fixed:9"], "--policies 'fixed:9': exit_layer 9 is out of range"),
        (["--policies", "gate:bold"], "--policies 'gate:bold': 'bold' is neither a number"),
        (["--metric", "bleu"], "--metric 'bleu' is not one of auto, exact"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl is not a file"),
    ],
)
def test_a_slip_is_one_line(
    tiny_folder: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    told: str,
) -> None:
    assert evaluate(tiny_folder, data, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dyvte evaluate: {told}")
    assert error.count("\n") == 1


def test_without_matplotlib_it_says_so_before_it_works(
    tiny_folder: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == "matplotlib" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert evaluate(tiny_folder, data, tmp_path / "out") == 2
    assert "pip install 'dyvte[figures]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
