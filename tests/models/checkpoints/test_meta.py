"""A model built from its configs alone has the sizes of the loaded one, and no weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config

import dyvte
from dyvte import ModelError
from dyvte.models import registry
from tests import tiny

GOLDEN = Path(__file__).parents[2] / "golden"
ORIGINALS = [GOLDEN / name / "checkpoint" for name in ("llava-original", "dyvte-llava")]
CPU, BF16 = torch.device("cpu"), torch.bfloat16


def without_weights(folder: Path, target: Path) -> Path:
    """The folder as a download of its small files alone leaves it."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


@pytest.mark.parametrize("folder", ORIGINALS, ids=lambda folder: folder.parent.name)
def test_an_original_layout_needs_no_weights(folder: Path, tmp_path: Path) -> None:
    built = registry.build_model(without_weights(folder, tmp_path / "model"), BF16).adapter
    loaded = registry.open_model(folder, CPU, BF16).adapter
    assert built.device.type == "meta"
    assert built.decoder == loaded.decoder
    assert built.parameter_bytes() == loaded.parameter_bytes()
    assert built.max_positions == loaded.max_positions


def test_a_native_folder_needs_no_weights(tmp_path: Path, tiny_folder: Path) -> None:
    opened = registry.build_model(without_weights(tiny_folder, tmp_path / "model"), BF16)
    loaded = registry.open_model(tiny_folder, CPU, BF16)
    assert opened.process_images is not None
    assert loaded.process_images is not None
    images = opened.process_images([Image.new("RGB", (40, 20))])
    built = opened.adapter
    assert built.visual_rows(images) == [tiny.VISUAL]
    assert built.vision_flops(images) == loaded.adapter.vision_flops(images)
    assert built.parameter_bytes() == loaded.adapter.parameter_bytes()
    assert built.eos_token_ids == loaded.adapter.eos_token_ids


def test_tied_weights_count_once(tmp_path: Path) -> None:
    shape = tiny.config(Qwen2Config, tie_word_embeddings=True)
    shape.tie_word_embeddings = True
    tiny.save_model(tmp_path, shape)
    built = registry.build_model(tmp_path, BF16).adapter
    assert (
        built.parameter_bytes()
        == registry.open_model(tmp_path, CPU, BF16).adapter.parameter_bytes()
    )


def test_gates_inside_a_checkpoint_are_seen(tmp_path: Path) -> None:
    folder = ORIGINALS[1]
    gates = registry.build_model(folder, BF16).adapter.gates
    assert gates is not None
    assert gates.layers == set(range(6))
    assert registry.build_model(without_weights(folder, tmp_path / "m"), BF16).adapter.gates is None


def test_an_unknown_config_is_refused_as_by_loading(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mystery"}')
    with pytest.raises(ModelError, match="mystery"):
        registry.build_model(tmp_path, BF16)


def test_a_layout_has_a_name() -> None:
    names = [
        registry.layout_of({"model_type": kind, "mm_vision_tower": "x"}) for kind in ("llava", "?")
    ]
    assert names == ["LLaVA-1.5's original", "transformers"]


def test_of_a_hub_model_only_small_files_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    asked: list[list[str]] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tiny_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    dyvte.build("somebody/model")
    registry.find("somebody/model")
    assert "*.safetensors" not in asked[0]
    assert "*.json" in asked[0]
    assert "*.safetensors" in asked[1]
    assert not [pattern for pattern in asked[1] if "bin" in pattern]


def test_of_a_tower_on_the_hub_only_what_is_read_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of it came: CLIP's repository holds its weights three times over."""
    source = Path(__file__).parents[2] / "golden" / "llava-original" / "checkpoint"
    folder = shutil.copytree(source, tmp_path / "model")
    tower = (folder / "vision_tower").rename(tmp_path / "tower")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "some/clip"}))
    asked: list[str] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        assert name == "some/clip"
        asked.extend(allow_patterns)
        return str(tower)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    dyvte.build(folder)
    assert not [pattern for pattern in asked if "safetensors" in pattern or "bin" in pattern]
    dyvte.load(folder, device="cpu", dtype="float32")
    assert "*.safetensors" in asked
    assert not [pattern for pattern in asked if "bin" in pattern]
    dyvte.load(folder, device="cpu", dtype="float32", allow_pickle=True)
    assert "pytorch_model*.bin" in asked
