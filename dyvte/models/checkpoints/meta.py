"""A model on the meta device, from its configs alone: every part and size, and not one weight.

What a request will cost, and how much memory a model needs, can be said of it before anything is
downloaded or fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from dyvte.exits.files import gates_inside
from dyvte.exits.gate import GateBank
from dyvte.models.checkpoints.native import read_image_processor
from dyvte.models.checkpoints.opened import Opened, implementations, refusing
from dyvte.models.decoder import NativeAdapter

DEVICE = torch.device("meta")


def on_meta(
    native: Any,
    config: Any,
    dtype: torch.dtype,
    attention: str | dict[str, str] | None = None,
) -> Any:
    """A ``transformers`` class over ``config`` without weights; tied weights are one."""
    with DEVICE:
        model = native._from_config(
            config, dtype=dtype, attn_implementation=attention or implementations()
        )
    return model.eval()


def build_native(folder: Path, adapter: type[NativeAdapter], dtype: torch.dtype) -> Opened:
    """As ``open_native``, without weights, tokenizer and chat format. Raises ModelError."""
    with refusing(folder):
        opened = empty_native(folder, adapter, dtype, gates_inside(folder))
        return Opened(opened, folder, None, None, read_image_processor(folder, adapter))


def empty_native(
    folder: Path, adapter: type[NativeAdapter], dtype: torch.dtype, gates: GateBank | None
) -> NativeAdapter:
    """The folder's adapter by its configs alone, with every check of its parts."""
    config = adapter.native.config_class.from_pretrained(folder)
    model = on_meta(adapter.native, config, dtype)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return adapter(model, gates)
