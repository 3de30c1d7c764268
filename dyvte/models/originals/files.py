"""What the readers of original layouts share: tensors from disk, folders of towers, RoPE words."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyvte.errors import ModelError
from dyvte.models.checkpoints.hub import hub_folder

_DECODER_KEYS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads hidden_act max_position_embeddings rms_norm_eps rope_theta rope_scaling "
    "attention_bias mlp_bias bos_token_id eos_token_id pad_token_id tie_word_embeddings head_dim"
).split()
_COUNTS = _DECODER_KEYS[:6]
PICKLE = "allow_pickle (--allow-pickle, DYVTE_ALLOW_PICKLE=1)"
_POINTER = b"version https://git-lfs"


def decoder_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's part of an older config, with RoPE in today's words. Raises ModelError."""
    text = {key: config[key] for key in _DECODER_KEYS if config.get(key) is not None}
    for key in _COUNTS:
        if type(text.get(key, 1)) is not int or text.get(key, 1) < 1:
            raise ModelError(f"config.json: {key} {text[key]!r} is not a number above 0")
    scaling = text.pop("rope_scaling", None) or {}
    newer = config.get("rope_parameters") or {}  # what transformers 5 writes in their place
    for key, said in (("rope_scaling", scaling), ("rope_parameters", newer)):
        if not isinstance(said, dict):
            raise ModelError(f"config.json: {key} {said!r} is not an object")
    theta = text.pop("rope_theta", 10000.0)
    renamed = {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, **renamed, **newer}
    return text


def architecture(config: dict[str, Any]) -> str | None:
    """The class that a config was saved from: the first of ``architectures``, or a bare name."""
    said = config.get("architectures") or [None]
    return said if isinstance(said, str) else said[0]


def part_folder(
    folder: Path, name: str, key: str, weights: bool = False, allow_pickle: bool = False
) -> Path:
    """The folder of a part that a config names under ``key``: beside, absolute, or from the hub.

    From the hub its ``weights`` come only where they are asked for. Raises ModelError.
    """
    for candidate in (folder / name, Path(name)):
        if (candidate / "config.json").exists():
            return candidate
    if name.startswith((".", "/")):
        raise ModelError(f"{folder}: {key} {name!r} has no config.json there")
    try:
        return hub_folder(name, weights, allow_pickle)
    except Exception as error:
        raise ModelError(
            f"{folder}: the vision tower {name!r} is neither beside the checkpoint nor on the hub; "
            f"download it and set {key} in config.json to its folder"
        ) from error


def tensors(folder: Path, allow_pickle: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder, shards included. Raises ModelError."""
    for file in weight_files(folder, allow_pickle):
        if file.suffix == ".bin":
            yield from _unpickled(file).items()
            continue
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118  (safe_open is no mapping)
                yield name, opened.get_tensor(name)


def shapes(folder: Path, allow_pickle: bool = False) -> dict[str, list[int]]:
    """The shape of every tensor of a folder, from its files' headers. Raises ModelError."""
    found: dict[str, list[int]] = {}
    for file in weight_files(folder, allow_pickle):
        inside = _shapes_in(file)
        twice = sorted(found.keys() & inside.keys())
        if twice:
            raise ModelError(f"{folder}: tensor {twice[0]!r} lies in two files")
        found |= inside
    return found


def _shapes_in(file: Path) -> dict[str, list[int]]:
    if file.suffix == ".bin":
        return {name: list(tensor.shape) for name, tensor in _unpickled(file).items()}
    with _opened(file) as opened:
        names = opened.keys()
        return {name: opened.get_slice(name).get_shape() for name in names}


def weight_files(folder: Path, allow_pickle: bool = False) -> list[Path]:
    """The files that hold a folder's weights.

    Raises ModelError where there are none, one is missing, or pickled ones are all there is.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index)
    safe = sorted(folder.glob("*.safetensors"))
    if safe:
        return safe
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise ModelError(f"{folder}: no *.safetensors found (pickled weights need {PICKLE})")
    if not allow_pickle:
        raise ModelError(
            f"{folder}: no *.safetensors found, only pickled weights ({pickled[0].name}); "
            f"{PICKLE} reads them, tensors only"
        )
    for index in sorted(folder.glob("*.bin.index.json")):
        _check_index(index)
    return pickled


def _check_index(index: Path) -> None:
    """Every file that an index names is there. Raises ModelError."""
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weights") from error
    missing = sorted(str(name) for name in names if not (index.parent / str(name)).exists())
    if missing:
        raise ModelError(f"{index.parent}: {index.name} names {missing[0]}, which is not there")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        with file.open("rb") as start:
            if start.read(len(_POINTER)) == _POINTER:
                raise ModelError(f"{file}: a git-lfs pointer; run: git lfs pull") from error
        raise ModelError(f"{file}: not a whole safetensors file ({error})") from error


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file; anything else that it asks to build is refused."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ModelError(f"{file}: cannot be read as tensors alone") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{file}: holds something other than named tensors")
    return state
