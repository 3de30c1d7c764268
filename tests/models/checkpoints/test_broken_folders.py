"""Settings that are not those of a model: each is refused in one line, before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dyvte
from dyvte import ModelError
from tests import tiny

GOLDEN = Path(__file__).parents[2] / "golden"
SOURCES = {
    "llava": GOLDEN / "llava-original/checkpoint",
    "internvl": GOLDEN / "internvl-original/internlm2-ln/checkpoint",
    "vila": GOLDEN / "vila-original/checkpoint",
    "eagle": GOLDEN / "eagle-original/checkpoint",
}
ROPE = {"rope_theta": 10000.0}
TOWER = "vision_tower/preprocessor_config.json"

BROKEN: list[tuple[str, str, str, Any, str]] = [  # source, file, keys, value, message
    ("native", "config.json", "vision_config", None, "vision_config None is not an object"),
    ("native", "config.json", "text_config", "x", "text_config 'x' is not an object"),
    ("native", "config.json", "text_config.intermediate_size", 47, "has shape [32, 48]; by config"),
    ("native", "config.json", "text_config.hidden_size", "48", "hidden_size"),
    ("native", "config.json", "text_config.num_attention_heads", 5, "attention heads"),
    ("native", "config.json", "text_config.num_attention_heads", 0, "ZeroDivisionError"),
    ("native", "config.json", "text_config.hidden_act", "nope", "says 'nope', which transformers"),
    (
        *("native", "config.json", "text_config.rope_parameters"),
        *(ROPE | {"rope_type": "foo"}, "foo"),
    ),
    ("native", "config.json", "vision_config.patch_size", 0, "patch_size 0 of the vision tower"),
    ("native", "config.json", "vision_feature_layer", -99, "layer -99 of it is selected"),
    ("llava", "config.json", "hidden_size", "48", "hidden_size '48' is not a number above 0"),
    ("llava", "config.json", "num_attention_heads", 0, "num_attention_heads 0 is not"),
    ("llava", "config.json", "num_attention_heads", 5, "attention heads"),
    ("llava", "config.json", "rope_scaling", "linear", "rope_scaling 'linear' is not an object"),
    ("llava", "config.json", "rope_scaling", ROPE | {"type": "foo"}, "foo"),
    ("llava", "config.json", "rope_parameters", ROPE | {"rope_type": "foo"}, "foo"),
    ("llava", "config.json", "hidden_act", "nope", "says 'nope', which transformers"),
    ("llava", "config.json", "mm_vision_select_layer", "-2", "vision_feature_layer"),
    ("llava", "config.json", "mm_vision_select_layer", -99, "layer -99 of it is selected"),
    ("llava", "config.json", "mm_vision_tower", None, "mm_vision_tower None names no vision tower"),
    ("llava", "config.json", "s2", True, "s2 True is not supported"),
    ("llava", TOWER, "", {}, "preprocessor_config.json holds no settings"),
    ("internvl", "config.json", "llm_config", None, "llm_config None is not an object"),
    ("internvl", "config.json", "llm_config.architectures", "Queer", "llm_config of 'Queer'"),
    ("internvl", "config.json", "downsample_ratio", 0, "downsample_ratio 0 is not"),
    ("internvl", "config.json", "downsample_ratio", 0.3, "downsample_ratio 0.3 is not"),
    ("internvl", "config.json", "select_layer", -99, "layer -99 of it is selected"),
    ("internvl", "config.json", "min_dynamic_patch", 50, "allow no number of tiles"),
    ("internvl", "config.json", "max_dynamic_patch", 0, "allow no number of tiles"),
    ("vila", "config.json", "mm_vision_select_layer", -99, "layer -99 of it is selected"),
    ("vila", TOWER, "", {}, "preprocessor_config.json holds no settings"),
    ("eagle", "config.json", "num_hidden_layers", 0, "num_hidden_layers 0 is not"),
]


def copy(name: str, tiny_folder: Path, target: Path) -> Path:
    return shutil.copytree(SOURCES.get(name, tiny_folder), target / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        dyvte.load(folder, device="cpu", dtype="float32")
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("source", "file", "keys", "value", "what"),
    BROKEN,
    ids=[f"{source}-{keys or 'no settings'}-{value}" for source, _, keys, value, _ in BROKEN],
)
def test_settings_of_no_model_are_refused(
    source: str, file: str, keys: str, value: Any, what: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = copy(source, tiny_folder, tmp_path)
    said = json.loads((folder / file).read_text())
    *outer, last = keys.split(".")
    inside = said
    for key in outer:
        inside = inside[key]
    if last:
        inside[last] = value
    (folder / file).write_text(json.dumps(said if last else value))
    assert what in refusal(folder)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_native_config_without_a_part_is_refused(
    part: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """``transformers`` would build the default model, of seven billion parameters."""
    folder = copy("native", tiny_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config[part]
    (folder / "config.json").write_text(json.dumps(config))
    assert f"has no {part}" in refusal(folder)


@pytest.mark.parametrize(
    ("source", "file", "text"),
    [
        ("llava", "tokenizer.model", "no pieces"),
        ("llava", "tokenizer_config.json", "{"),
        ("llava", "tokenizer_config.json", "[]"),
        ("llava", "special_tokens_map.json", "{"),
        ("llava", TOWER, "{"),
        ("vila", "llm/tokenizer_config.json", "{"),
        ("native", "processor_config.json", "{}"),
        ("native", "tokenizer_config.json", "{"),
        ("native", "tokenizer.json", "{"),
        ("native", "tokenizer.json", "{}"),
        ("native", "tokenizer.json", '{"model": 3}'),
    ],
)
def test_broken_small_files_are_named_before_a_weight_is_read(
    source: str, file: str, text: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = copy(source, tiny_folder, tmp_path)
    (folder / file).write_text(text)
    assert Path(file).name in refusal(folder)


def test_an_original_tokenizer_in_one_file_is_named_when_it_is_broken(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """``tokenizers`` raises a bare Exception, which came out as a traceback."""
    folder = copy("llava", tiny_folder, tmp_path)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").write_text('{"model": 3}')
    assert "tokenizer.json" in refusal(folder)


def test_a_pointer_of_git_lfs_is_called_one(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy("native", tiny_folder, tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(folder)


def test_a_tensor_that_nothing_takes_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """``transformers`` drops it without a word."""
    folder = copy("native", tiny_folder, tmp_path)
    state = load_file(folder / "model.safetensors") | {"surprise.weight": torch.zeros(1)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "unknown tensor 'surprise.weight'" in refusal(folder)


def test_gates_inside_native_weights_are_the_models_gates(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = copy("native", tiny_folder, tmp_path)
    shutil.rmtree(folder / "gates")
    bank, state = tiny.gates(), load_file(folder / "model.safetensors")
    for layer in bank.layers:
        state[f"model.visual_gates_router.{layer}.w1.weight"] = bank.w1[layer]
        state[f"model.visual_gates_router.{layer}.w2.weight"] = bank.w2[layer]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    gates = dyvte.load(folder, device="cpu", dtype="float32").gates
    assert gates is not None
    assert gates.layers == bank.layers
    torch.testing.assert_close(gates.w1[2], bank.w1[2])
