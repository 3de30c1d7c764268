"""From a name (``demo``, a folder, a hub id) to an adapter, its tokenizer and image processor.

A folder is recognised by its ``config.json`` before a weight is read; an unknown one is refused
with what was found and what is supported. Pickled weights and remote code are never used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoProcessor,
    GenerationConfig,
    LlamaTokenizer,
    LlavaForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from dyvte.attention import register
from dyvte.errors import ModelError
from dyvte.models import llava_original
from dyvte.models.adapter import ModelAdapter
from dyvte.models.chat import ChatFormat, TemplateChat, VicunaChat
from dyvte.models.images import ImageProcessor, pad_to_square
from dyvte.models.llava import LlavaAdapter

SUPPORTED = "LLaVA (transformers' layout, or LLaVA-1.5's original layout with or without gates)"
DEMO = "demo"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything a folder holds. The last three are None where the folder has no such files."""

    adapter: ModelAdapter
    folder: Path
    tokenizer: Any | None
    chat: ChatFormat | None
    process_images: ImageProcessor | None


def find(name: str) -> Path:
    """The folder of a model: the embedded demo, a local folder, or one from the hub."""
    if name == DEMO:
        folder = Path(__file__).parent.parent / "demo" / "assets"
        if not (folder / "config.json").exists():
            raise ModelError("the demo model is not in this installation; run: dyvte demo train")
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f'{name}: no such folder; give "demo", a model folder or a hub id')
    try:
        from huggingface_hub import snapshot_download

        allow = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=allow))
    except Exception as error:  # the hub's own error tree is wide and changes
        raise ModelError(
            f"{name}: neither a folder here nor available from the hub "
            f"({type(error).__name__}); give a folder with config.json and safetensors"
        ) from error


def open_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Opened:
    """Load the weights onto ``device``. Raises ModelError."""
    config = _read_config(folder)
    with _quiet():
        if llava_original.is_original(config):
            return _open_original(folder, config, device, dtype)
        if config.get("model_type") == "llava" and "text_config" in config:
            return _open_native(folder, device, dtype)
    found = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    raise ModelError(f"{folder}: {found} is not supported; supported: {SUPPORTED}")


def checkpoint_dtype(folder: Path) -> torch.dtype | None:
    """The type that config.json names, if any."""
    config = _read_config(folder)
    name = config.get("dtype") or config.get("torch_dtype")
    found = getattr(torch, str(name).removeprefix("torch."), None) if name else None
    return found if isinstance(found, torch.dtype) else None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{folder}: no config.json there; is it a model folder?") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object")
    return config


def _implementations() -> dict[str, str]:
    return {"text_config": register(), "vision_config": "sdpa"}


def _open_native(folder: Path, device: torch.device, dtype: torch.dtype) -> Opened:
    with _refusing(folder):
        model, report = LlavaForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=_implementations(),
            use_safetensors=True,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"{folder}: weights are missing ({missing}, …)")
    with _refusing(folder):
        adapter = LlavaAdapter(model.to(device).eval())
    if not any((folder / name).exists() for name in PROCESSOR_FILES):
        return Opened(adapter, folder, None, None, None)
    with _refusing(folder):
        processor = AutoProcessor.from_pretrained(folder)
    template = processor.chat_template or processor.tokenizer.chat_template
    chat = TemplateChat(processor.tokenizer, template, processor.image_token) if template else None
    return Opened(
        adapter, folder, processor.tokenizer, chat, ImageProcessor(processor.image_processor)
    )


def _open_original(
    folder: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Opened:
    with _refusing(folder):
        native = llava_original.native_config(folder, config)
        state, gates = llava_original.read_tensors(folder, config)
        model, report = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=native,
            state_dict=llava_original.cast(state, dtype),
            dtype=dtype,
            attn_implementation=_implementations(),
            output_loading_info=True,
        )
    if report["missing_keys"] or report["unexpected_keys"]:
        odd = ", ".join(sorted([*report["missing_keys"], *report["unexpected_keys"]])[:3])
        raise ModelError(f"{folder}: tensors do not match a LLaVA-1.5 model ({odd}, …)")
    model.generation_config = GenerationConfig(eos_token_id=config.get("eos_token_id", 2))
    adapter = LlavaAdapter(model.to(device).eval(), gates)
    tokenizer = None
    if (folder / "tokenizer.model").exists() or (folder / "tokenizer.json").exists():
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tower = llava_original.tower_folder(folder, config)
    process = None
    if (tower / "preprocessor_config.json").exists():
        from transformers import CLIPImageProcessor  # warns of missing torchvision on import

        pad = config.get("image_aspect_ratio") == "pad"
        processor = CLIPImageProcessor.from_pretrained(tower)
        process = ImageProcessor(processor, pad_to_square if pad else None)
    return Opened(adapter, folder, tokenizer, VicunaChat(tokenizer) if tokenizer else None, process)


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """What a broken folder makes the readers raise becomes one line of ModelError."""
    try:
        yield
    except ModelError as error:
        named = str(error).startswith(str(folder))
        raise error if named else ModelError(f"{folder}: {error}") from error
    except KeyError as error:
        raise ModelError(f"{folder}: config.json has no {error}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no load reports from ``transformers`` while we load."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
