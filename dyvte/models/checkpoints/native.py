"""Families that ``transformers`` has a class for: one opener for all of them.

The adapter's class says which model class to load; tokenizer, chat template and image processor
are read one by one, since a whole processor may want packages for videos that nobody here uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from dyvte.errors import ModelError
from dyvte.exits.files import gates_inside
from dyvte.models.checkpoints.native_weights import check_names, check_shapes, linear_weights
from dyvte.models.checkpoints.opened import (
    Opened,
    check_settings,
    implementations,
    naming,
    refusing,
)
from dyvte.models.checkpoints.quantization import how_to_read
from dyvte.models.decoder import NativeAdapter
from dyvte.models.originals.files import shapes
from dyvte.models.originals.tokenizers import FILES
from dyvte.models.prompts.chat import TemplateChat
from dyvte.models.prompts.template_files import read_template
from dyvte.models.vision.images import ImageProcessor

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def native_adapter(config: dict[str, Any]) -> type[NativeAdapter] | None:
    """The adapter's class for a config in ``transformers``' own layout, if there is one."""
    match config.get("model_type"):
        case "llava":
            from dyvte.models.families.llava import LlavaAdapter

            return LlavaAdapter
        case "llava_next":
            from dyvte.models.families.llava_next import LlavaNextAdapter

            return LlavaNextAdapter
        case "llava_onevision":
            from dyvte.models.families.llava_onevision import LlavaOnevisionAdapter

            return LlavaOnevisionAdapter
        case "internvl":
            from dyvte.models.families.internvl import InternVLAdapter

            return InternVLAdapter
        case "qwen2_vl":
            from dyvte.models.families.qwen2_vl import Qwen2VLAdapter

            return Qwen2VLAdapter
        case "qwen2_5_vl":
            from dyvte.models.families.qwen2_5_vl import Qwen25VLAdapter

            return Qwen25VLAdapter
        case "qwen3_vl":
            from dyvte.models.families.qwen3_vl import Qwen3VLAdapter

            return Qwen3VLAdapter
    return None


def open_native(
    folder: Path,
    adapter: type[NativeAdapter],
    device: torch.device,
    dtype: torch.dtype,
    allow_pickle: bool = False,
) -> Opened:
    """Load the weights and what else the folder has. Raises ModelError."""
    from dyvte.models.checkpoints.meta import (
        empty_native,  # it reads image processors through this file
    )

    with refusing(folder):
        stored = shapes(folder, allow_pickle)
        gates = gates_inside(folder)
        empty = empty_native(folder, adapter, dtype, gates).model
        how = how_to_read(adapter.native.config_class.from_pretrained(folder), device)
        check_shapes(stored, empty, but=linear_weights(empty) if how else ())
        tokenizer, chat = read_chat(folder, adapter, empty.config)
        process = read_image_processor(folder, adapter)
        model, report = adapter.native.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=implementations(),
            use_safetensors=None if allow_pickle else True,  # None: pickled ones where alone
            output_loading_info=True,
            **how,
        )
        check_names(report["missing_keys"], report["unexpected_keys"], gates is not None)
        opened = adapter(model.to(device).eval(), gates)
        return Opened(opened, folder, tokenizer, chat, process)


def read_chat(
    folder: Path, adapter: type[NativeAdapter], config: Any
) -> tuple[Any | None, TemplateChat | None]:
    """Tokenizer and chat format, as far as the folder has them."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None, None
    with naming(folder, *FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    template = read_template(folder, tokenizer)
    if not template:
        return tokenizer, None
    image = getattr(config, "image_token_id", None) or config.image_token_index
    token = tokenizer.convert_ids_to_tokens(image) if 0 <= image < len(tokenizer) else None
    if token is None:
        raise ModelError(f"{folder}: the tokenizer does not know config.json's image token {image}")
    return tokenizer, TemplateChat(tokenizer, template, token, adapter.image_frame)


def read_image_processor(folder: Path, adapter: type[NativeAdapter]) -> ImageProcessor | None:
    """The family's own image processor (the one on PIL), if the folder has its settings."""
    files = [folder / name for name in PROCESSOR_FILES if (folder / name).exists()]
    if not files:
        return None
    for file in files:
        check_settings(file)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return ImageProcessor(processor, settings=adapter.image_settings, low=adapter.low_detail)
