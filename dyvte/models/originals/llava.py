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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from dyvte.errors import ModelError
from dyvte.exits.files import bank_from, gate_key, gates_inside
from dyvte.exits.gate import GateBank
from dyvte.models.chat import VicunaChat
from dyvte.models.images import ImageProcessor, pad_to_square
from dyvte.models.llava import LlavaAdapter
from dyvte.models.meta import on_meta
from dyvte.models.opened import Opened, implementations, refusing
from dyvte.models.originals.files import cast, decoder_settings, part_folder, tensors

LAYOUT = "LLaVA-1.5's original"
MODEL_TYPES = ("llava_llama", "llava")
_PROJECTOR = {"model.mm_projector.0.": "linear_1.", "model.mm_projector.2.": "linear_2."}
_TOWER_INSIDE = "model.vision_tower.vision_tower.vision_model."


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code (the native one has a ``text_config``)."""
    return config.get("model_type") in MODEL_TYPES and "mm_vision_tower" in config


def open_original(
    folder: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Opened:
    """Load the weights onto ``device``. Raises ModelError."""
    with refusing(folder):
        native = native_config(folder, config)
        state, gates = read_tensors(folder, config)
        model, report = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=native,
            state_dict=cast(state, dtype),
            dtype=dtype,
            attn_implementation=implementations(),
            output_loading_info=True,
        )
    if report["missing_keys"] or report["unexpected_keys"]:
        odd = ", ".join(sorted([*report["missing_keys"], *report["unexpected_keys"]])[:3])
        raise ModelError(f"{folder}: tensors do not match a LLaVA-1.5 model ({odd}, …)")
    model.generation_config = generation_config(config)
    adapter = LlavaAdapter(model.to(device).eval(), gates)
    tokenizer = None
    if (folder / "tokenizer.model").exists() or (folder / "tokenizer.json").exists():
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    chat = VicunaChat(tokenizer) if tokenizer else None
    return Opened(adapter, folder, tokenizer, chat, image_processor(folder, config))


def build(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
    """The same on the meta device: no weight is read but those of gates. Raises ModelError."""
    with refusing(folder):
        model = on_meta(LlavaForConditionalGeneration, native_config(folder, config), dtype)
        model.generation_config = generation_config(config)
        adapter = LlavaAdapter(model, gates_inside(folder))
        return Opened(adapter, folder, None, None, image_processor(folder, config))


def generation_config(config: dict[str, Any]) -> GenerationConfig:
    """Where an answer ends; Llama's own id where the config has none."""
    return GenerationConfig(eos_token_id=config.get("eos_token_id", 2))


def image_processor(folder: Path, config: dict[str, Any]) -> ImageProcessor | None:
    """The tower's own, if its folder has the settings, after the padding that the config asks."""
    tower = tower_folder(folder, config)
    if not (tower / "preprocessor_config.json").exists():
        return None
    from transformers import CLIPImageProcessor  # warns of missing torchvision on import

    pad = config.get("image_aspect_ratio") == "pad"
    processor = CLIPImageProcessor.from_pretrained(tower)
    return ImageProcessor(processor, pad_to_square if pad else None)


def native_config(folder: Path, config: dict[str, Any]) -> LlavaConfig:
    """The same model in ``transformers``' words. Raises ModelError for what it cannot say."""
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise ModelError(
            f"{folder}: mm_projector_type {projector!r} is not supported (mlp2x_gelu is)"
        )
    select = config.get("mm_vision_select_feature", "patch")
    text = decoder_settings(config)
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


def tower_folder(folder: Path, config: dict[str, Any]) -> Path:
    """The CLIP tower's folder: beside the checkpoint, an absolute path, or from the hub."""
    return part_folder(folder, str(config["mm_vision_tower"]), "mm_vision_tower")


def read_tensors(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], GateBank | None]:
    """All weights under native names, and the gates. Raises ModelError for unknown tensors."""
    state: dict[str, Tensor] = {}
    gates: dict[str, Tensor] = {}
    for name, tensor in tensors(folder):
        if gate_key(name):
            gates[name] = tensor
        elif not name.startswith(_TOWER_INSIDE) and not name.endswith("rotary_emb.inv_freq"):
            state[_native_name(name)] = tensor
    for name, tensor in tensors(tower_folder(folder, config)):
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
