"""Drawn data as files: what every command with `--data` reads."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from dyvte.cli import main
from dyvte.demo.dataset import SPLITS, samples
from dyvte.demo.export import SPLIT_SIZE, Export, drawn, write


def test_a_row_is_a_chat_about_a_picture_that_exists(tmp_path: Path) -> None:
    path = write(Export("gates", 3, questions=2), tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 6
    assert len({row["id"] for row in rows}) == 6
    for row in rows:
        (message,) = row["messages"]
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
        with Image.open(tmp_path / message["content"][0]["image_url"]["url"]) as picture:
            assert picture.format == "PNG"
        assert row["answer"]
        assert row["kind"]


def test_one_question_a_picture_is_the_dataset_itself() -> None:
    told = [(q.text, q.answer, q.kind) for _, _, ((q,),) in drawn(Export("test", 4, skip=2))]
    assert told == [(s.question, s.answer, s.kind) for s in samples(4, "test", skip=2)]


def test_splits_cannot_overlap() -> None:
    starts = sorted(SPLITS.values())
    assert all(b - a >= SPLIT_SIZE for a, b in itertools.pairwise(starts))
    with pytest.raises(ValueError, match="skip"):
        Export("test", 2, skip=SPLIT_SIZE - 1)


def test_earlier_turns_are_answered_and_the_last_is_asked(tmp_path: Path) -> None:
    path = write(Export("calibration", 2, turns=(3,)), tmp_path)
    for line in path.read_text().splitlines():
        roles = [message["role"] for message in json.loads(line)["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]


def test_turns_alternate_over_the_pictures() -> None:
    drawn_turns = [len(c[0]) for _, _, c in drawn(Export("calibration", 6, turns=(1, 1, 2)))]
    assert drawn_turns == [1, 1, 2, 1, 1, 2]


@pytest.mark.parametrize("turns", ["0", "1,x"])
def test_turns_that_are_no_counts_are_one_line(
    turns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["demo", "render", "--split", "test", "--count", "1", "--out", str(tmp_path)]
    assert main([*argv, "--turns", turns]) == 2
    assert "--turns" in capsys.readouterr().err


@pytest.mark.parametrize("shift", ["background", "size"])
def test_a_shift_changes_the_pictures_and_their_name(shift: str, tmp_path: Path) -> None:
    plain = [picture.tobytes() for _, picture, _ in drawn(Export("test", 6))]
    moved = [picture.tobytes() for _, picture, _ in drawn(Export("test", 6, shift=shift))]
    assert sum(a != b for a, b in zip(plain, moved, strict=True)) >= 5
    assert write(Export("test", 1, shift=shift), tmp_path).name == f"test-{shift}.jsonl"


def test_the_command_writes_it_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "render", "--split", "test", "--count", "1", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "test.jsonl")


def test_an_unknown_split_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["demo", "render", "--split", "tset", "--count", "1", "--out", str(tmp_path)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("dyvte demo: --split 'tset' is not one of train, gates")
    assert error.count("\n") == 1
