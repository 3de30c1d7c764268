"""`dyvte convert` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

import dyvte
from dyvte.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCE = GOLDEN / "dyvte-llava" / "checkpoint"


def test_a_checkpoint_becomes_a_folder_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "model"
    assert main(["convert", str(SOURCE), str(target)]) == 0
    said = capsys.readouterr().out
    assert "234 kB of weights in float16 and gates" in said
    assert f"--model {target}" in said
    model = dyvte.load(target, device="cpu", dtype="float32")
    assert model.gates is not None
    assert main(["check", str(target), "--json", "--no-weights"]) == 0
    assert '"layout": "transformers"' in capsys.readouterr().out


def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    refused = {
        "exists and is not empty": (SOURCE, full),
        "layout already; it loads as it is": (tiny_folder, tmp_path / "a"),
        "the folder loads as it is": (GOLDEN / "vila-original" / "checkpoint", tmp_path / "b"),
        "no such folder": ("nowhere", tmp_path / "c"),
        "arguments are required: DST": (SOURCE,),
    }
    for line, words in refused.items():
        assert main(["convert", *map(str, words)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("dyvte convert: ")
        assert line in printed.err
        assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
