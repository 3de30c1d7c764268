"""Reader for LLaVA-1.5 checkpoints as their authors published them, DyVTE's gates included.

``config.json`` says ``llava_llama``, the decoder's tensors lie at ``model.*``, the projector at
``model.mm_projector.{0,2}``, the CLIP tower in the folder that ``mm_vision_tower`` names (a copy
inside the checkpoint is ignored, as the 1.5 loader does) and the gates, where there are some, at
``model.visual_gates_router.*``. ``transformers`` would load such a folder as native with random
weights and a mere warning, hence this file. InternVL-Chat 1.0 is the same around another tower
(``internvl_llava``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from dyvte.errors import ModelError
from dyvte.exits.files import bank_from, gate_key, gates_inside
from dyvte.exits.gate import GateBank
from dyvte.models.checkpoints.meta import on_meta
from dyvte.models.checkpoints.opened import (
    Opened,
    check_settings,
    implementations,
    read_config,
    refusing,
)
from dyvte.models.families.llava import LlavaAdapter
from dyvte.models.originals import intern_vit, internvl_llava
from dyvte.models.originals.expected import Rename, check_tensors, filled
from dyvte.models.originals.files import decoder_settings, part_folder, shapes, tensors
from dyvte.models.originals.reader import NativeWeights
from dyvte.models.originals.tokenizers import read_tokenizer
from dyvte.models.prompts.conversation_formats import VICUNA_V1
from dyvte.models.prompts.conversations import ConversationChat
from dyvte.models.vision.images import ImageProcessor, pad_to_square

LAYOUT = "LLaVA-1.5's original"
MODEL_TYPES = ("llava_llama", "llava")
_PROJECTOR = {"model.mm_projector.0.": "linear_1.", "model.mm_projector.2.": "linear_2."}
_TOWER_INSIDE = "model.vision_tower."
_UNUSED = "rotary_emb.inv_freq"
_CLIP_TEXT = ("text_model.", "logit_scale", "text_projection", "visual_projection")
CLIP = ("clip_vision_model", "clip")


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code (the native one has a ``text_config``)."""
    return config.get("model_type") in MODEL_TYPES and "mm_vision_tower" in config


def open_original(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    allow_pickle: bool = False,
) -> Opened:
    """Load the weights onto ``device``. Raises ModelError."""
    with refusing(folder):
        tokenizer = read_tokenizer(folder)
        chat = ConversationChat(tokenizer, VICUNA_V1) if tokenizer else None
        process = image_processor(folder, config)
        model, gates = _model(folder, config, dtype, allow_pickle)
        model.generation_config = generation_config(config)
        return Opened(LlavaAdapter(model.to(device), gates), folder, tokenizer, chat, process)


def _model(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, allow_pickle: bool
) -> tuple[Any, GateBank | None]:
    """On the CPU; when this returns nobody else holds a weight."""
    native = native_config(folder, config)
    state, gates = read_tensors(folder, config, allow_pickle, dtype)
    kind = LlavaForConditionalGeneration
    return filled(kind, native, state, dtype, implementations()), gates


def build(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
    """The same on the meta device: no weight is read but those of gates. Raises ModelError."""
    with refusing(folder):
        model = on_meta(LlavaForConditionalGeneration, native_config(folder, config), dtype)
        model.generation_config = generation_config(config)
        adapter = LlavaAdapter(model, gates_inside(folder))
        return Opened(adapter, folder, None, None, image_processor(folder, config))


def native_weights(
    folder: Path, config: dict[str, Any], allow_pickle: bool = False
) -> NativeWeights:
    """All that a folder in ``transformers``' layout holds. Raises ModelError."""
    with refusing(folder):
        state, gates = read_tensors(folder, config, allow_pickle)
        return NativeWeights(
            config=native_config(folder, config),
            state=state,
            gates=gates,
            generation=generation_config(config),
            tokenizer=read_tokenizer(folder),
            conversation=VICUNA_V1,
            image_processor=native_image_processor(folder, config),
        )


def generation_config(config: dict[str, Any]) -> GenerationConfig:
    """Where an answer ends; Llama's own id where the config has none."""
    return GenerationConfig(eos_token_id=config.get("eos_token_id", 2))


def image_processor(folder: Path, config: dict[str, Any]) -> ImageProcessor | None:
    """The tower's own, if its folder has the settings, after the padding that the config asks."""
    before = pad_to_square if config.get("image_aspect_ratio") == "pad" else None
    if internvl_llava.is_tower(read_tower(folder, config)):
        return ImageProcessor(internvl_llava.processor(str(config["mm_vision_tower"])), before)
    tower = tower_folder(folder, config)
    if not (tower / "preprocessor_config.json").exists():
        return None
    check_settings(tower / "preprocessor_config.json")
    return ImageProcessor(CLIPImageProcessorPil.from_pretrained(tower), before)


def native_image_processor(folder: Path, config: dict[str, Any]) -> Any | None:
    """``transformers``' own for LLaVA, which pads by itself."""
    own = image_processor(folder, config)
    if own is None:
        return None
    from transformers import LlavaImageProcessor  # warns of missing torchvision on import

    settings = own.processor.to_dict()
    settings.pop("image_processor_type", None)
    return LlavaImageProcessor(**settings | {"do_pad": own.before is not None})


def native_config(folder: Path, config: dict[str, Any]) -> LlavaConfig:
    """The same model in ``transformers``' words. Raises ModelError for what it cannot say."""
    check(folder, config)
    select = config.get("mm_vision_select_feature", "patch")
    text = decoder_settings(config)
    return LlavaConfig(
        vision_config=vision_config(folder, config),
        text_config=LlamaConfig(**text),
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if select == "patch" else "full",
        projector_hidden_act="gelu",
        image_token_index=text["vocab_size"] - 1,  # never looked up: rows are laid in by span
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


def check(folder: Path, config: dict[str, Any]) -> None:
    """Raises ModelError for settings under which the original does something else."""
    known = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_vision_select_feature": ("patch", "cls_patch"),
        "image_aspect_ratio": ("pad", "square", None),
        "mm_use_im_start_end": (False, None),
        "s2": (False, None),
    }
    given = {"mm_projector_type": "linear", "mm_vision_select_feature": "patch"} | config
    for key, values in known.items():
        if given.get(key) not in values:
            names = ", ".join(map(str, values))
            raise ModelError(f"{folder}: {key} {given.get(key)!r} is not supported ({names} is)")


def vision_config(folder: Path, config: dict[str, Any]) -> Any:
    """The tower's config. Raises ModelError for a tower that is neither CLIP nor InternViT."""
    tower = read_tower(folder, config)
    if internvl_llava.is_tower(tower):
        return internvl_llava.tower_config(tower, str(config["mm_vision_tower"]))
    if tower.get("model_type") not in CLIP:
        known = ", ".join((*CLIP, *intern_vit.MODEL_TYPES))
        raise ModelError(
            f"{folder}: vision tower {tower.get('model_type')!r} is not supported ({known})"
        )
    tower = tower.get("vision_config", tower)
    return CLIPVisionConfig(**{k: v for k, v in tower.items() if k != "model_type"})


def tower_folder(
    folder: Path, config: dict[str, Any], weights: bool = False, allow_pickle: bool = False
) -> Path:
    """The vision tower's folder, as ``part_folder`` finds it. Raises ModelError."""
    name = config["mm_vision_tower"]
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder}: mm_vision_tower {name!r} names no vision tower")
    return part_folder(folder, name, "mm_vision_tower", weights, allow_pickle)


def read_tower(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The vision tower's ``config.json``. Raises ModelError."""
    return read_config(tower_folder(folder, config))


def read_tensors(
    folder: Path,
    config: dict[str, Any],
    allow_pickle: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], GateBank | None]:
    """All weights under native names, in ``dtype`` (None: as stored), and the gates.

    Settings, names and shapes are looked at before a weight is read. Raises ModelError.
    """
    native = native_config(folder, config)
    tower = tower_folder(folder, config, weights=True, allow_pickle=allow_pickle)
    parts: dict[Path, Rename] = {folder: _own, tower: partial(_tower, native.vision_config)}
    empty = on_meta(LlavaForConditionalGeneration, native, torch.float32)
    empty.generation_config = generation_config(config)
    LlavaAdapter(empty)  # refuses what it does not do
    stored = [(shapes(part, allow_pickle), rename) for part, rename in parts.items()]
    check_tensors(empty, *stored, tied=native.tie_word_embeddings)
    state: dict[str, Tensor] = {}
    gates: dict[str, Tensor] = {}
    for part, rename in parts.items():
        for name, tensor in tensors(part, allow_pickle):
            if part == folder and gate_key(name):
                gates[name] = tensor
            for new, own in rename(name, tensor):
                state[new] = own.to(dtype or own.dtype)
    return state, bank_from(gates) if gates else None


def _own(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of the checkpoint itself, but for gates and a copy of the tower."""
    if not (gate_key(name) or name.startswith(_TOWER_INSIDE) or name.endswith(_UNUSED)):
        yield _native_name(name), tensor


def _tower(config: Any, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of the tower's folder."""
    rename = _clip if config.model_type == "clip_vision_model" else internvl_llava.tower_tensors
    for stem, part in rename(name, tensor, config):
        yield f"model.vision_tower.{stem}", part


def _clip(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """One tensor of a CLIP model under the names within its tower; the text's side is left out."""
    stem = re.sub(r"^(?:model\.)?vision_model\.", "", name)
    if not name.startswith(_CLIP_TEXT) and stem != "embeddings.position_ids":
        yield stem, tensor


def _native_name(name: str) -> str:
    for prefix, native in _PROJECTOR.items():
        if name.startswith(prefix):
            return f"model.multi_modal_projector.{native}{name.removeprefix(prefix)}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    if name == "lm_head.weight":
        return name
    raise ModelError(f"unknown tensor {name!r} in a LLaVA-1.5 checkpoint")
