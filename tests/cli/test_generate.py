"""`dyvte generate` on a random model of a few thousand parameters, and everything it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dyvte
from benchmarks.model import Preset, Tower, make
from dyvte.cli import main
from dyvte.cli.picture import open_picture

LAYERS = 4
TINY = Preset(vision=Tower(16, 32, 2, 2), text=Tower(16, 32, LAYERS, 2), vocab=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make(TINY, folder, dtype="float32", seed=0)
    return str(folder)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return str(path)


def test_an_answer_and_one_line_of_account(
    model: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", picture, "amber?", "--model", model, "--max-tokens", "3"]
    assert main([*argv, "--exit-layer", "1"]) == 0
    *_, account = capsys.readouterr().out.splitlines()
    assert account.startswith(f"exit after layer 1 of {LAYERS} · ")
    assert "FLOPs" in account
    assert "KV" in account


def test_json_has_the_names_of_the_servers_reply(
    model: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "--model", model, "--max-tokens", "3", "--json", "--exit-layer", "1"]
    assert main([*argv, picture, picture, "amber?"]) == 0
    answer = json.loads(capsys.readouterr().out)
    report = answer["dyvte"]
    assert (report["policy"], report["exit_layer"], report["num_layers"]) == ("fixed", 1, LAYERS)
    assert report["visual_tokens"] == 2 * 576
    assert report["flops"]["saved"] == report["flops"]["baseline"] - report["flops"]["total"]
    assert report["flops"]["saved"] > 0
    assert report["kv_bytes_saved"] > 0


def test_an_image_is_not_required(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "amber?", "--model", model, "--max-tokens", "2"]) == 0
    assert "\nno image · " in capsys.readouterr().out


def test_detail_is_what_the_api_calls_it(
    model: str, picture: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    prompt = dyvte.Model.prompt

    def watched(self: dyvte.Model, messages: Any, tools: Any = ()) -> dyvte.Prompt:
        asked.extend(part.get("detail") for part in messages[0]["content"])
        return prompt(self, messages, tools)

    monkeypatch.setattr(dyvte.Model, "prompt", watched)
    argv = ["generate", picture, "amber?", "--model", model, "--max-tokens", "1"]
    assert main([*argv, "--detail", "low"]) == 0
    assert main(argv) == 0
    assert asked == ["low", None, "auto", None]
    assert main([*argv, "--detail", "fine"]) == 2
    assert "--detail: invalid choice: 'fine'" in capsys.readouterr().err


def test_no_exit_saves_nothing(
    model: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", picture, "amber?", "--model", model, "--no-exit", "--max-tokens", "2"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dyvte"]["flops"]["saved"] == 0


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--aggressiveness", "1.5"], "--aggressiveness must be between 0 and 1, not 1.5 ("),
        (["--aggressiveness", "high"], "--aggressiveness: must be a number, not 'high' ("),
        (["--exit-layer", "-1"], "--exit-layer: must be at least 0, not -1 ("),
        (["--exit-layer", "1", "--no-exit"], "--no-exit: not allowed with argument --exit-layer"),
        (["--no-exit", "--min-layer", "1"], '--min-layer has no meaning with policy "off" ('),
        (["--min-layer", "3", "--max-layer", "2"], "--min-layer 3 is above max_layer 2 ("),
        (["--max-tokens", "0"], "--max-tokens: must be at least 1, not 0 ("),
        (["--temperature", "9"], "--temperature must be between 0 and 2, not 9.0 ("),
        (["--agressiveness", "1"], "unknown option --agressiveness (did you mean --aggr"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_a_model_is_looked_for(
    flags: list[str], line: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", picture, "amber?", "--model", "no/such/model", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dyvte generate: {line}")
    assert error.count("\n") == 1


def test_what_this_model_cannot_do_is_one_line(
    model: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", picture, "amber?", "--model", model]
    for flags in (["--aggressiveness", "0.5"], ["--exit-layer", "99"], ["--device", "toaster"]):
        assert main([*argv, *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("dyvte generate: --")
        assert error.count("\n") == 1


def test_an_unknown_model_is_one_line(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", picture, "amber?", "--model", "no/such/model"]) == 2
    error = capsys.readouterr().err
    assert "no/such/model" in error
    assert error.count("\n") == 1


def test_an_image_that_is_missing_or_broken_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 90).save(whole)
    broken = {
        "empty.png": b"",
        "text.png": b"no picture at all",
        "cut.png": whole.read_bytes()[:600],
    }
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert main(["generate", str(path), "what?"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"dyvte generate: image {path} cannot be read (")
        assert error.count("\n") == 1
    for name, what in (("nowhere.png", "not found"), (str(tmp_path), "is a folder")):
        assert main(["generate", name, "what?"]) == 2
        assert f"image {name} {what} (" in capsys.readouterr().err


def test_a_forgotten_question_is_told(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", picture]) == 2
    assert "no question after" in capsys.readouterr().err
    assert main(["generate", picture, " "]) == 2
    assert "the question is empty" in capsys.readouterr().err


def test_a_picture_is_opened_upright_and_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert open_picture(str(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: rotate a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(str(tmp_path / "turned.jpg")).size == (2, 4)
