"""Weights on disk: shards that are missing, tensors that are doubled, and pickled files."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dyvte
from dyvte import ModelError
from dyvte.models.originals.files import tensors, weight_files
from tests import tiny

ORIGINAL = Path(__file__).parents[2] / "golden" / "llava-original" / "checkpoint"


class Trap:
    """Writes a file when unpickled as an object."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def pickled(folder: Path) -> Path:
    """The folder with its decoder's and its tower's weights in ``.bin`` files."""
    for part in (folder, folder / "vision_tower"):
        state: dict[str, torch.Tensor] = {}
        for file in part.glob("*.safetensors"):
            state |= load_file(file)
            file.unlink()
        (part / "model.safetensors.index.json").unlink(missing_ok=True)
        torch.save(state, part / "pytorch_model.bin")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(ORIGINAL, tmp_path / "model")


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names model-00002-of-00002\.safetensors"):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_a_missing_shard_of_a_native_folder_is_named(tmp_path: Path) -> None:
    tiny.save_model(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-2\.safetensors"):
        dyvte.load(tmp_path, device="cpu", dtype="float32")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_is_refused(text: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index"):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(48)}, folder / "model-extra.safetensors")
    with pytest.raises(ModelError, match="two files"):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_pickled_weights_need_the_flag_and_then_are_the_same(folder: Path) -> None:
    pickled(folder)
    with pytest.raises(ModelError, match="allow-pickle"):
        dyvte.load(folder, device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="allow-pickle"):
        dyvte.load(folder, device="cpu", dtype="float32", allow_pickle=False)
    loaded = dyvte.load(folder, device="cpu", dtype="float32", allow_pickle=True)
    expected = dyvte.load(ORIGINAL, device="cpu", dtype="float32")
    ids = torch.arange(400)
    ours, theirs = loaded.adapter.embed_tokens(ids), expected.adapter.embed_tokens(ids)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_pickled_weights_of_a_native_folder_need_the_flag(tmp_path: Path) -> None:
    tiny.save_model(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="allow-pickle"):
        dyvte.load(tmp_path, device="cpu", dtype="float32")
    dyvte.load(tmp_path, device="cpu", dtype="float32", allow_pickle=True)


def test_a_pickle_that_is_more_than_tensors_builds_nothing(folder: Path) -> None:
    pickled(folder)
    mark = folder / "executed"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap(mark)}))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        dyvte.load(folder, device="cpu", dtype="float32", allow_pickle=True)
    assert not mark.exists()


def test_safetensors_are_taken_where_both_lie(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert {file.suffix for file in weight_files(folder, allow_pickle=True)} == {".safetensors"}
    assert dict(tensors(folder))
