"""`dyvte analyze`: files where they were asked for, and one line for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dyvte.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    part = {"type": "image_url", "image_url": {"url": "red.png"}}
    content = [part, {"type": "text", "text": "which colour?"}]
    row = {"messages": [{"role": "user", "content": content}], "answer": "red"}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(row) + "\nnonsense\n")
    return path


def flags(data: Path, out: Path, *more: str) -> list[str]:
    return ["analyze", "--data", str(data), "--out", str(out), "--device", "cpu", *more]


def test_numbers_and_figures_are_written_and_named(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    argv = flags(data, out, "--model", str(tiny_folder), "--max-tokens", "2", "--exit-layer", "1")
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [
        str(out / name)
        for name in (
            "analysis.json",
            "weights.png",
            "score.png",
            "entropy.png",
            "exits.png",
            "heatmap.png",
        )
    ]
    assert "line 2" in printed.err
    told = json.loads((out / "analysis.json").read_text())
    assert told["options"]["exits"]["exit_layer"] == 1
    assert told["exit_layers"] == {"all": {"1": 1}}
    assert told["provenance"]["command"].startswith("dyvte analyze --data")


def test_a_question_with_a_formula_is_drawn_as_it_stands(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    """Dollars in a question or a kind began a formula, and a broken one ended the run at the end
    of all its work."""
    row = json.loads(data.read_text().splitlines()[0]) | {"kind": "$\\frac$", "id": "$_$"}
    row["messages"][0]["content"][1]["text"] = "does $\\frac$ cost $5?"
    asked = tmp_path / "$\\frac$.jsonl"
    asked.write_text(json.dumps(row))
    argv = flags(asked, tmp_path / "out", "--model", str(tiny_folder), "--max-tokens", "2")
    assert main([*argv, "--figures", "exits,heatmap"]) == 0


def test_numbers_alone_need_no_figures(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = flags(data, out, "--model", str(tiny_folder), "--no-png", "--figures", "weights")
    assert main(argv) == 0
    assert [path.name for path in out.iterdir()] == ["analysis.json"]
    assert json.loads((out / "analysis.json").read_text())["score"] is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--figures", "speed"], ("--figures", "speed", "weights")),
        (["--limit", "0"], ("--limit", "at least 1")),
        (["--exit-layer", "1", "--aggressiveness", "0.5"], ("--aggressiveness", "not allowed")),
        (["--aggressiveness", "7"], ("--aggressiveness", "7", "between 0 and 1")),
        (["--data", "/no/such"], ("--data", "/no/such", "JSON")),
        (["--model", "/no/such"], ("/no/such",)),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    more: list[str],
    words: tuple[str, ...],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(flags(data, out, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("dyvte analyze: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not out.exists()


def test_data_without_a_picture_is_told(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    assert main(flags(path, tmp_path / "out", "--model", str(tiny_folder))) == 2
    assert "no question about an image" in capsys.readouterr().err


def test_an_exit_layer_that_the_model_has_not_is_one_line(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(data, tmp_path / "o", "--model", str(tiny_folder), "--exit-layer", "99")
    assert main(argv) == 2
    assert "--exit-layer 99 is out of range" in capsys.readouterr().err
