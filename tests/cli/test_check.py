"""`dyvte check` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

import dyvte
from dyvte.cli import main
from dyvte.kernels import build, ops
from tests import tiny

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = Path(__file__).parents[1] / "models" / "checkpoints" / "configs"


def told(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    assert main(["check", *map(str, argv), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_loaded_model_is_told_as_it_is(
    tiny_folder: Path, tiny_model: dyvte.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, tiny_folder, "--device", "cpu", "--image", "40x30", "12x12")
    assert found["model"]["loaded"]
    assert found["model"]["weight_bytes"] == tiny_model.adapter.parameter_bytes()
    kinds = {part["part"]: part["kind"] for part in found["parts"]}
    assert kinds["vision tower"] == "clip_vision_model"
    assert kinds["decoder"] == "llama"
    assert [image["visual_tokens"] for image in found["images"]] == [tiny.VISUAL] * 2
    assert not found["images_assumed"]
    assert found["gates"]["layers"] == [0, 1, 2, 3]
    assert [cost["exit_layer"] for cost in found["requests"]] == [None, 2, 1, 0]
    totals = [cost["flops"]["total"] for cost in found["requests"]]
    assert totals == sorted(totals, reverse=True)


def stored_in(dtype: torch.dtype, folder: Path, tied: bool) -> Path:
    """A checkpoint of that type, whose head may be the embedding."""
    shape = tiny.config()
    shape.tie_word_embeddings = shape.text_config.tie_word_embeddings = tied
    torch.manual_seed(0)
    LlavaForConditionalGeneration(shape).to(dtype).save_pretrained(folder)
    tiny.save_processor(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_are_sized_as_they_will_be_held_before_one_is_read(
    dtype: torch.dtype, tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16-bit weights stay 16 bit where our kernels compute float32."""
    folder = stored_in(dtype, tmp_path / "model", tied)
    how = ("--device", "cpu", "--dtype", "float32", "--image", "12x12")
    loaded, built = (told(capsys, folder, *how, *more) for more in ((), ("--no-weights",)))
    assert built["model"]["weight_bytes"] == loaded["model"]["weight_bytes"]
    assert built["memory_estimate"] == loaded["memory_estimate"]
    if ops.available():
        kept = told(capsys, folder, "--device", "cuda", *how[2:], "--no-weights")["model"]
        assert (built["model"]["weight_bytes"] < kept["weight_bytes"]) == (dtype == torch.float16)


def test_nothing_changes_where_no_weight_is_read(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "available", lambda: False)  # what computes is not told
    loaded = told(capsys, tiny_folder, "--device", "cpu")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("dyvte.models.registry.open_model", refuse)
    built = told(capsys, tiny_folder, "--device", "cpu", "--no-weights")
    assert not built["model"].pop("loaded")
    assert loaded["model"].pop("loaded")
    for name in ("device", "name"):
        built["model"].pop(name), loaded["model"].pop(name)
    assert built == loaded


def test_the_kernels_that_compute_a_model_are_told(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not ops.available():
        pytest.skip("needs a C++ compiler")
    device = ("--device", "cpu", "--image", "12x12")
    assert told(capsys, tiny_folder, *device)["model"]["kernels"] == build.instruction_set()
    bfloat16 = told(capsys, tiny_folder, *device, "--dtype", "bfloat16")["model"]
    assert bfloat16["kernels"] == build.instruction_set()  # norms and attention, not products
    assert told(capsys, tiny_folder, *device, "--no-weights")["model"]["kernels"] is None
    assert main(["check", str(tiny_folder), *device]) == 0
    assert f"float32 · kernels for {build.instruction_set()} · " in capsys.readouterr().out


def test_a_folder_of_configs_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """13 billion parameters, on any laptop."""
    assert main(["check", str(CONFIGS / "llava-1.5-13b-hf"), "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "no weight was read" in said
    assert "13.4 B" in said
    assert "26.7 GB in float16" in said
    assert "after layer 19 (½ of 40)" in said
    assert "estimate" in said
    assert "pages of 256 rows" in said


def test_gates_inside_an_original_checkpoint_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, GOLDEN / "dyvte-llava" / "checkpoint", "--no-weights")
    assert found["gates"]["layers"] == list(range(6))
    assert found["model"]["layout"] == "LLaVA-1.5's original"


def test_a_processor_of_another_model_is_found_out(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pictures have another size than the tower's: the first request would have failed."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    path = next(
        folder / n
        for n in ("preprocessor_config.json", "processor_config.json")
        if (folder / n).exists()
    )
    path.write_text(path.read_text().replace(f": {tiny.SIDE}", f": {tiny.SIDE + 4}"))
    assert main(["check", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dyvte check: ")
    assert "pixel_values" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "dyvte check: the following arguments are required: MODEL"),
        (["demo", "--image", "big"], "dyvte check: --image: must be WxH in pixels"),
        (["demo", "--image", "0x4"], "dyvte check: --image: must be WxH in pixels"),
        (["demo", "--image", "99999x99999"], "dyvte check: --image: must have at most 100000000"),
        (["demo", "--concurrency", "0"], "dyvte check: --concurrency: must be at least 1"),
        (["demo", "--dtype", "int3"], "dyvte check: --dtype 'int3' is not a type"),
        (["demo", "--gates", "nowhere"], "dyvte check: gates: nowhere does not exist"),
        (["nowhere"], "dyvte check: nowhere: no such folder"),
    ],
)
def test_a_slip_is_one_line(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == 1
