"""What the readers of original layouts share: tensors from disk, folders of towers, RoPE words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyvte.errors import ModelError

_DECODER_KEYS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads hidden_act max_position_embeddings rms_norm_eps rope_theta rope_scaling "
    "attention_bias mlp_bias bos_token_id eos_token_id pad_token_id tie_word_embeddings head_dim"
).split()


def decoder_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's part of an older config, with RoPE in today's words."""
    text = {key: config[key] for key in _DECODER_KEYS if config.get(key) is not None}
    scaling = text.pop("rope_scaling", None) or {}
    theta = text.pop("rope_theta", 10000.0)
    renamed = {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, **renamed}
    return text


def part_folder(folder: Path, name: str, key: str) -> Path:
    """The folder of a part that a config names under ``key``: beside, absolute, or from the hub."""
    for candidate in (folder / name, Path(name)):
        if (candidate / "config.json").exists():
            return candidate
    if name.startswith((".", "/")):
        raise ModelError(f"{folder}: {key} {name!r} has no config.json there")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name))
    except Exception as error:  # the hub's own error tree is wide and changes
        raise ModelError(
            f"{folder}: the vision tower {name!r} is neither beside the checkpoint nor on the hub; "
            f"download it and set {key} in config.json to its folder"
        ) from error


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder, shards included. Raises ModelError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors found (pickled weights are not read)")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (safe_open is no mapping)
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{file}: not a whole safetensors file ({error})") from error


def cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights in the type that the model will run in."""
    return {name: tensor.to(dtype) for name, tensor in state.items()}
