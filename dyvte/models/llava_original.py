"""Reader for LLaVA-1.5 checkpoints as their authors published them, DyVTE's gates included.

``config.json`` says ``llava_llama``, the decoder's tensors lie at ``model.*``, the projector at
``model.mm_projector.{0,2}``, the CLIP tower in the folder that ``mm_vision_tower`` names (a copy
inside the checkpoint is ignored, as the 1.5 loader does) and the gates, where there are some, at
``model.visual_gates_router.*``. ``transformers`` would load such a folder as native with random
weights and a mere warning, hence this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from dyvte.errors import ModelError
from dyvte.exits.files import bank_from, gate_key
from dyvte.exits.gate import GateBank

MODEL_TYPES = ("llava_llama", "llava")
_PROJECTOR = {"model.mm_projector.0.": "linear_1.", "model.mm_projector.2.": "linear_2."}
_TOWER_INSIDE = "model.vision_tower.vision_tower.vision_model."
_DECODER_KEYS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads hidden_act max_position_embeddings rms_norm_eps rope_theta rope_scaling "
    "attention_bias mlp_bias bos_token_id eos_token_id pad_token_id tie_word_embeddings head_dim"
).split()


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code (the native one has a ``text_config``)."""
    return config.get("model_type") in MODEL_TYPES and "mm_vision_tower" in config


def native_config(folder: Path, config: dict[str, Any]) -> LlavaConfig:
    """The same model in ``transformers``' words. Raises ModelError for what it cannot say."""
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise ModelError(
            f"{folder}: mm_projector_type {projector!r} is not supported (mlp2x_gelu is)"
        )
    select = config.get("mm_vision_select_feature", "patch")
    text = {key: config[key] for key in _DECODER_KEYS if config.get(key) is not None}
    scaling = text.pop("rope_scaling", None)
    theta = text.pop("rope_theta", 10000.0)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, **_scaling(scaling)}
    tower = json.loads((tower_folder(folder, config) / "config.json").read_text())
    tower = tower.get("vision_config", tower)
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**{k: v for k, v in tower.items() if k != "model_type"}),
        text_config=LlamaConfig(**text),
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if select == "patch" else "full",
        projector_hidden_act="gelu",
        image_token_index=text["vocab_size"] - 1,  # never looked up: rows are laid in by span
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


def _scaling(scaling: dict[str, Any] | None) -> dict[str, Any]:
    if not scaling:
        return {}
    return {("rope_type" if key == "type" else key): value for key, value in scaling.items()}


def tower_folder(folder: Path, config: dict[str, Any]) -> Path:
    """The CLIP tower's folder: beside the checkpoint, an absolute path, or from the hub."""
    name = str(config["mm_vision_tower"])
    for candidate in (folder / name, Path(name)):
        if (candidate / "config.json").exists():
            return candidate
    if name.startswith((".", "/")):
        raise ModelError(f"{folder}: mm_vision_tower {name!r} has no config.json there")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name))
    except Exception as error:  # the hub's own error tree is wide and changes
        raise ModelError(
            f"{folder}: the vision tower {name!r} is neither beside the checkpoint nor on the hub; "
            "download it and set mm_vision_tower in config.json to its folder"
        ) from error


def read_tensors(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], GateBank | None]:
    """All weights under native names, and the gates. Raises ModelError for unknown tensors."""
    state: dict[str, Tensor] = {}
    gates: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        if gate_key(name):
            gates[name] = tensor
        elif not name.startswith(_TOWER_INSIDE) and not name.endswith("rotary_emb.inv_freq"):
            state[_native_name(name)] = tensor
    for name, tensor in _tensors(tower_folder(folder, config)):
        stem = re.sub(r"^(?:model\.)?vision_model\.", "", name)
        if not name.startswith(
            ("text_model.", "logit_scale", "text_projection", "visual_projection")
        ):
            state[f"model.vision_tower.{stem}"] = tensor
    state.pop("model.vision_tower.embeddings.position_ids", None)
    return state, bank_from(gates) if gates else None


def _native_name(name: str) -> str:
    for prefix, native in _PROJECTOR.items():
        if name.startswith(prefix):
            return f"model.multi_modal_projector.{native}{name.removeprefix(prefix)}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    if name == "lm_head.weight":
        return name
    raise ModelError(f"unknown tensor {name!r} in a LLaVA-1.5 checkpoint")


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
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
