"""Checkpoints whose weights were rounded before they were stored: what they say, who reads them.

``transformers`` reads them, with the library that rounded them. A ``quantization_config`` that it
does not know it leaves out, and takes packed numbers for weights: that is refused here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers import AutoHfQuantizer

from dyvte.errors import ModelError

BEFORE = "take the checkpoint as it was before that, with --weights"
NEEDED = {"bitsandbytes": ("accelerate", "bitsandbytes"), "torchao": ("accelerate", "torchao")}


def said_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """``quantization_config``, which may stand in the decoder's part; None for plain weights."""
    text = config.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, dict) else None
    said = config.get("quantization_config", inner)
    return said if isinstance(said, dict) or said is None else {}


def rounded_by(config: dict[str, Any]) -> str | None:
    """The method that a config says its weights were rounded by; None for plain weights."""
    said = said_of(config)
    return None if said is None else str(said.get("quant_method", "a method without a name"))


def check_rounded(folder: Path, config: dict[str, Any], original: str | None) -> None:
    """Refuse rounded weights that cannot be read here. Raises ModelError.

    ``original`` names the layout where it is not ``transformers``' own.
    """
    said, method = said_of(config), rounded_by(config)
    if said is None or method is None:
        return
    begun = f"{folder}: its weights were rounded by {method}"
    if original is not None:
        raise ModelError(f"{begun}, and {original} layout is read with plain ones only; {BEFORE}")
    if "quant_method" not in said or not AutoHfQuantizer.supports_quant_method(said):
        raise ModelError(f"{begun}, which transformers does not know; {BEFORE}")
    needed = NEEDED.get(method, ("accelerate",))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{begun}, and {' and '.join(missing)} is not installed: pip install 'dyvte[quant]'"
        )


def how_to_read(config: Any, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told of rounded weights, else nothing. Mutates ``config``.

    bitsandbytes multiplies a column that is large in one row (above ``llm_int8_threshold``) in 16
    bit for all rows of a batch, so that an answer would depend on its company: it is told not to.
    """
    said = [
        getattr(part, "quantization_config", None)
        for part in (config, config.get_text_config(decoder=True))
    ]
    for each in said:
        if isinstance(each, dict) and each.get("load_in_8bit"):
            each["llm_int8_threshold"] = 0.0
    return {"config": config, "device_map": {"": device}} if any(said) else {}


def note_of(config: dict[str, Any]) -> tuple[str, ...]:
    """What people should know of a folder's weights."""
    method = rounded_by(config)
    if method is None:
        return ()
    return (f"its weights were rounded by {method} before they were stored",)
