"""Reader for VILA-1.5 as its authors published it: ``llm/``, ``vision_tower/``, ``mm_projector/``.

**Token order.** Since December 2024 the projector ``mlp_downsample`` lists its cells row by row;
the code that VILA-1.5 was made with lists them column by column. Name and weights look the same.
What tells them apart: the newer code saves keys of its own in ``config.json`` (``NEWER_KEYS``) and
runs under ``transformers`` 4.46 or later, which every part's config records. A checkpoint with
neither sign is read column by column. ``token_order`` in ``config.json`` ("rows" or "columns"), or
the option of that name, overrides the choice. "rows" stands for the newer code as a whole: its
line break behind each image, and its ``llama_3`` conversation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from dyvte.attention import register
from dyvte.errors import ModelError
from dyvte.models.checkpoints.meta import DEVICE, on_meta
from dyvte.models.checkpoints.opened import Opened, check_settings, read_config, refusing
from dyvte.models.families.vila import COLUMNS, ROWS, DownsampleProjector, VilaAdapter, VilaModel
from dyvte.models.originals.expected import check_tensors, filled
from dyvte.models.originals.files import architecture, decoder_settings, shapes, tensors
from dyvte.models.originals.tokenizers import read_tokenizer
from dyvte.models.prompts.conversation_formats import (
    LLAMA_3,
    LLAMA_3_ROWS,
    VICUNA_V1,
    VILA_HERMES_2,
)
from dyvte.models.prompts.conversations import Conversation, ConversationChat
from dyvte.models.vision.images import ImageProcessor, pad_to_square, resize_to_tower
from dyvte.models.vision.towers import check_levels

LAYOUT = "VILA-1.5's original"
PARTS = {"llm": "llm_cfg", "vision_tower": "vision_tower_cfg", "mm_projector": "mm_projector_cfg"}
DECODERS: dict[str, tuple[Any, Any]] = {
    "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
    "MistralForCausalLM": (MistralConfig, MistralForCausalLM),
    "Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
}
NEWER_KEYS = ("image_encoder", "video_encoder", "dynamic_s2", "min_tiles", "max_tiles")
NEWER_TRANSFORMERS = (4, 46)
ORDERS = (ROWS, COLUMNS)
_TOWER_STEM, _HEAD = "vision_model.", "head."


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code, which names its parts ``…_cfg``."""
    return any(key in config for key in PARTS.values())


def open_original(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    allow_pickle: bool = False,
) -> Opened:
    """Load the weights onto ``device``. Raises ModelError."""
    with refusing(folder):
        order, why = token_order(folder, config)
        tokenizer = read_tokenizer(folder / "llm")
        process = image_processor(folder, config)
        chat = ConversationChat(tokenizer, conversation(tokenizer, order)) if tokenizer else None
        model = _model(folder, config, order, dtype, allow_pickle).to(device).eval()
        model.generation_config = GenerationConfig(eos_token_id=model.config.eos_token_id)
        adapter = VilaAdapter(model, None, select_layer(config), _behind(tokenizer, order))
        adapter.eos_token_ids |= chat.stop_ids if chat else frozenset()
        note = f"VILA token order: {order} ({why})"
        return Opened(adapter, folder, tokenizer, chat, process, notes=(note,))


def _model(
    folder: Path, config: dict[str, Any], order: str, dtype: torch.dtype, allow_pickle: bool
) -> VilaModel:
    """On the CPU; when this returns nobody else holds a weight."""
    empty = empty_model(folder, config, order, dtype)
    VilaAdapter(empty, None, select_layer(config))  # refuses what it does not do
    for part in PARTS:
        _check_tensors(folder / part, getattr(empty, part), allow_pickle)

    def read(part: str) -> dict[str, Tensor]:
        return {
            new: own.to(dtype)
            for name, tensor in tensors(folder / part, allow_pickle)
            for new, own in _own(name, tensor)
        }

    def whole(part: str) -> Any:
        module = getattr(empty, part)
        attention = module.config._attn_implementation
        return filled(type(module), module.config, read(part), dtype, attention)

    projector = empty.mm_projector
    projector.load_state_dict(read("mm_projector"), assign=True)
    return VilaModel(whole("vision_tower"), projector, whole("llm"))


def build(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
    """The same on the meta device: no weight is read. Raises ModelError."""
    with refusing(folder):
        order, why = token_order(folder, config)
        model = empty_model(folder, config, order, dtype)
        behind = _behind(read_tokenizer(folder / "llm"), order)
        adapter = VilaAdapter(model, None, select_layer(config), behind)
        note = f"VILA token order: {order} ({why})"
        return Opened(adapter, folder, None, None, image_processor(folder, config), notes=(note,))


def token_order(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """ "rows" or "columns", and the sign that said so. Raises ModelError."""
    said = config.get("token_order")
    if said is not None:
        if said not in ORDERS:
            raise ModelError(f"token_order {said!r} is not known ({', '.join(ORDERS)} are)")
        return str(said), "as token_order says"
    keys = [key for key in NEWER_KEYS if key in config]
    if keys:
        return ROWS, f"config.json has {keys[0]}"
    configs = [config, *(config.get(key) for key in PARTS.values()), *_part_configs(folder)]
    for each in configs:
        version = str(each.get("transformers_version")) if isinstance(each, dict) else ""
        if _numbers(version) >= NEWER_TRANSFORMERS:
            return ROWS, f"saved under transformers {version}"
    return COLUMNS, "no sign of code from December 2024 or later; token_order overrides"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _part_configs(folder: Path) -> list[dict[str, Any]]:
    """The config of each part. Raises ModelError for a part that is not there."""
    for part in PARTS:
        if not (folder / part / "config.json").exists():
            raise ModelError(f"{part}/config.json is missing; VILA-1.5 has {', '.join(PARTS)}")
    return [read_config(folder / part) for part in PARTS]


def empty_model(folder: Path, config: dict[str, Any], order: str, dtype: torch.dtype) -> VilaModel:
    """The model without weights. Raises ModelError for what is not supported."""
    llm, tower, projector = _part_configs(folder)
    _check(config, projector)
    text, kind = decoder(llm)
    vision = tower_config(tower, config)
    check_levels("vila", select_layer(config), vision.num_hidden_layers)
    with DEVICE:
        joining = DownsampleProjector(vision.hidden_size, text.hidden_size, order).to(dtype)
    return VilaModel(
        on_meta(SiglipVisionModel, vision, dtype, "sdpa"),
        joining,
        on_meta(kind, text, dtype, register()),
    ).eval()


def _check(config: dict[str, Any], projector: dict[str, Any]) -> None:
    found = projector.get("mm_projector_type")
    if found != "mlp_downsample":
        raise ModelError(f"mm_projector_type {found!r} is not supported (mlp_downsample is)")
    if config.get("s2") or config.get("dynamic_s2"):
        raise ModelError("s2 (several scales of an image) is not supported")
    if config.get("mm_use_im_start_end"):
        raise ModelError("mm_use_im_start_end is not supported")
    feature = config.get("mm_vision_select_feature", "cls_patch")
    if feature != "cls_patch":
        raise ModelError(f"mm_vision_select_feature {feature!r} is not supported (cls_patch is)")


def decoder(llm: dict[str, Any]) -> tuple[Any, Any]:
    """The decoder's config and class. Raises ModelError."""
    name = architecture(llm)
    if name not in DECODERS:
        raise ModelError(f"llm of {name!r} is not supported ({', '.join(DECODERS)} are)")
    kind, model = DECODERS[name]
    settings = decoder_settings(llm)
    for key in ("use_sliding_window", "sliding_window", "max_window_layers"):
        if kind is not LlamaConfig and key in llm:
            settings[key] = llm[key]
    return kind(**settings), model


def tower_config(tower: dict[str, Any], config: dict[str, Any]) -> SiglipVisionConfig:
    """The tower's config, without the pooling head that nothing here reads. Raises ModelError."""
    if tower.get("model_type") != "siglip_vision_model":
        raise ModelError(
            f"vision tower {tower.get('model_type')!r} is not supported (siglip_vision_model is)"
        )
    side, asked = tower.get("image_size", 224), config.get("vision_resolution") or -1
    if asked not in (-1, side):
        raise ModelError(f"vision_resolution {asked} on a tower of {side} is not supported")
    said = {key: value for key, value in tower.items() if key != "model_type"}
    return SiglipVisionConfig(**(said | {"vision_use_head": False}))


def select_layer(config: dict[str, Any]) -> int:
    """The tower's hidden state that the projector takes."""
    return int(config.get("mm_vision_select_layer", -2))


def image_processor(folder: Path, config: dict[str, Any]) -> ImageProcessor | None:
    """The tower's own, after the resizing or padding that the config asks. Raises ModelError."""
    before = {"resize": resize_to_tower, "pad": pad_to_square, "square": None, None: None}
    ratio = config.get("image_aspect_ratio")
    if ratio not in before:
        raise ModelError(f"image_aspect_ratio {ratio!r} is not supported (resize, pad, square are)")
    if not (folder / "vision_tower" / "preprocessor_config.json").exists():
        return None
    check_settings(folder / "vision_tower" / "preprocessor_config.json")
    processor = AutoImageProcessor.from_pretrained(folder / "vision_tower", backend="pil")
    return ImageProcessor(processor, before[ratio])


def conversation(tokenizer: Any, order: str) -> Conversation:
    """The format that a decoder was trained on, by the specials that its tokenizer knows.

    The original goes by the folder's name; its specials say the same of the published ones.
    """
    known = tokenizer.get_vocab()
    if "<|start_header_id|>" in known:
        return LLAMA_3_ROWS if order == ROWS else LLAMA_3
    return VILA_HERMES_2 if "<|im_start|>" in known else VICUNA_V1


def _behind(tokenizer: Any | None, order: str) -> list[int]:
    """The line break behind each image, with its tokenizer's specials as the newer code has it."""
    if order == COLUMNS:
        return []
    if tokenizer is None:
        raise ModelError("llm/ has no tokenizer; newer VILA code puts its line break behind images")
    ids: list[int] = tokenizer("\n")["input_ids"]
    return ids


def _check_tensors(part: Path, module: Any, allow_pickle: bool) -> None:
    """Names and shapes of one part. Raises ModelError."""
    config = getattr(module, "config", None)  # the projector has none
    tied = bool(getattr(config, "tie_word_embeddings", False))
    try:
        check_tensors(module, (shapes(part, allow_pickle), _own), tied=tied)
    except ModelError as error:
        raise ModelError(f"{part.name}/: {error}") from error


def _own(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor under its name within its part as built here; nothing for one that is not used."""
    name = name.removeprefix(_TOWER_STEM)
    if not (name.startswith(_HEAD) or name.endswith(("position_ids", "rotary_emb.inv_freq"))):
        yield name, tensor
