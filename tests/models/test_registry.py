"""Which folders load, as what, and how the others are refused: one useful line, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dyvte
from dyvte import ModelError
from server.__main__ import open_engine, reason_of
from server.settings import Settings
from tests import tiny
from tests.models.families.family import picture, says

ORIGINAL = Path(__file__).parents[1] / "golden" / "llava-original" / "checkpoint"


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edit(folder: Path, **changes: object) -> None:
    """Change config.json; a value of None takes the key out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def refusal(folder: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        dyvte.load(folder, device="cpu", dtype="float32")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_folder_says_what_to_give() -> None:
    assert "no such folder" in refusal("./nowhere")
    assert "config.json" in refusal("nobody/nothing-like-this")


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refusal(tmp_path)


def test_unknown_family_is_refused_with_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mystery", "architectures": ["M"]}')
    message = refusal(tmp_path)
    assert "mystery" in message
    assert "LLaVA" in message


def test_native_folder_with_missing_weights_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    """``transformers`` would fill the hole at random and only warn."""
    folder = copy(tiny_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layers.2.mlp.up_proj" in name)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "layers.2.mlp.up_proj" in refusal(folder)


def test_native_folder_without_weights_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    folder = copy(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refusal(folder)


def test_cut_off_weights_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    """A download that stopped half-way: safetensors raises an error type of its own."""
    for source in (tiny_folder, ORIGINAL):
        folder = copy(source, tmp_path / source.name)
        [file, *_] = sorted(folder.glob("model*.safetensors"))
        file.write_bytes(file.read_bytes()[:1000])
        assert str(folder) in refusal(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    folder = copy(tiny_folder, tmp_path / "native")
    config = json.loads((folder / "config.json").read_text())
    edit(folder, text_config=config["text_config"] | {"intermediate_size": 64})
    assert str(folder) in refusal(folder)
    folder = copy(ORIGINAL, tmp_path / "original")
    edit(folder, intermediate_size=64)
    assert str(folder) in refusal(folder)


def test_original_folder_is_never_loaded_as_native() -> None:
    adapter = dyvte.load(ORIGINAL, dtype="float32").adapter
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(ORIGINAL.glob("*.safetensors")):
        stored |= load_file(file)
    table = adapter.embed_tokens(torch.arange(400))
    torch.testing.assert_close(table, stored["model.embed_tokens.weight"].float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"mm_projector_type": "linear"},
        {"mm_vision_tower": "./elsewhere"},
        {"vocab_size": None},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_original_folder_that_is_not_whole_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    folder = copy(ORIGINAL, tmp_path / "model")
    edit(folder, **change)
    assert str(folder) in refusal(folder)


def test_original_folder_with_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    folder = copy(ORIGINAL, tmp_path / "model")
    save_file({"model.surprise.weight": torch.zeros(1)}, folder / "model-extra.safetensors")
    assert "model.surprise.weight" in refusal(folder)


def test_model_without_processor_files_answers_processed_prompts(tmp_path: Path) -> None:
    """What ``save_pretrained`` of a model alone writes is a model folder, too."""
    tiny.save_model(tmp_path)
    model = dyvte.load(tmp_path, device="cpu", dtype="float32")
    result = tiny.alone(model, tiny.prompt(), sampling=dyvte.SamplingParams(max_tokens=2))
    assert len(result.token_ids) == 2
    with pytest.raises(dyvte.PromptError, match="no tokenizer") as caught:
        model.prompt([{"role": "user", "content": "Hello"}])
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        (("tokenizer.json",), "has no tokenizer (tokenizer.json, "),
        (("chat_template.jinja",), "has a tokenizer but no chat template (chat_template.jinja "),
    ],
)
def test_a_folder_that_no_message_can_be_put_to_is_not_served(
    lost: tuple[str, ...], what: str, tmp_path: Path, tiny_folder: Path
) -> None:
    """The server was ready, and every chat a 400 that showed this path and a library's remedy."""
    folder = copy(tiny_folder, tmp_path / "model")
    for name in lost:
        (folder / name).unlink()
    settings = Settings.model_validate({"model": str(folder), "device": "cpu"})
    with pytest.raises(ModelError) as caught:
        open_engine(settings)
    reason = reason_of(caught.value, settings)
    assert reason.startswith(f"--model {folder}: {what}")
    assert "copy the missing files" in reason


def test_what_is_said_of_pictures_to_a_model_without_an_image_processor_names_no_path(
    tmp_path: Path, tiny_folder: Path
) -> None:
    folder = copy(tiny_folder, tmp_path / "model")
    (folder / "processor_config.json").unlink()
    model = dyvte.load(folder, device="cpu", dtype="float32")
    with pytest.raises(dyvte.PromptError, match="takes text only") as caught:
        model.prompt([says("user", picture(8, 8), "What?")])
    assert str(tmp_path) not in str(caught.value)


def test_gates_of_another_model_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    gates = ORIGINAL.parents[1] / "dyvte-llava" / "checkpoint" / "model.safetensors"
    shallow = copy(tiny_folder, tmp_path / "model")
    with pytest.raises(ModelError, match="layer"):
        dyvte.load(shallow, gates=gates)
