"""From a name (``demo``, a folder, a hub id) to an adapter, its tokenizer and image processor.

A folder is recognised by its ``config.json`` before a weight is read; an unknown one is refused
with what was found and what is supported. Pickled weights are read only where the user says so,
remote code never.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dyvte.errors import ModelError, OptionError
from dyvte.models.checkpoints.hub import hub_folder
from dyvte.models.checkpoints.meta import build_native
from dyvte.models.checkpoints.native import native_adapter, open_native
from dyvte.models.checkpoints.native_weights import check_parts
from dyvte.models.checkpoints.opened import Opened, ReadOptions, quiet, read_config, refusing
from dyvte.models.checkpoints.quantization import check_rounded, note_of, rounded_by
from dyvte.models.decoder import NativeAdapter
from dyvte.models.originals import eagle as original_eagle
from dyvte.models.originals import internvl as original_internvl
from dyvte.models.originals import llava as original_llava
from dyvte.models.originals import vila as original_vila
from dyvte.models.originals.files import weight_files
from dyvte.models.originals.reader import Builder, Reader

SUPPORTED = (
    "LLaVA-1.5 (original, with or without gates)",
    "InternVL-Chat 1.0 (original)",
    "VILA-1.5 (original)",
    "EAGLE X4 and X5 (original)",
    "InternVL chat 1.5, 2 and 2.5 (original)",
    "in transformers' layout: llava, llava_next, llava_onevision, internvl, qwen2_vl, qwen2_5_vl, "
    "qwen3_vl",
)
DEMO = "demo"
STRICT = ReadOptions()
READERS: tuple[Reader, ...] = (original_vila, original_internvl, original_llava, original_eagle)


def find(name: str, allow_pickle: bool = False, weights: bool = True) -> Path:
    """The folder of a model: the embedded demo, a local folder, or one from the hub.

    Without ``weights`` only the small files of one from the hub are fetched.
    """
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
        return hub_folder(name, weights, allow_pickle)
    except Exception as error:
        raise ModelError(
            f"{name}: neither a folder here nor available from the hub "
            f"({type(error).__name__}); give a folder with config.json and safetensors"
        ) from error


def open_model(
    folder: Path, device: torch.device, dtype: torch.dtype, options: ReadOptions = STRICT
) -> Opened:
    """Load the weights onto ``device``. Raises ModelError, OptionError."""
    config = read_config(folder)
    with quiet():
        reader = reader_of(config)
        config |= _overrides(folder, reader, options)
        check_rounded(folder, config, layout_of(config) if reader is not None else None)
        if reader is not None:
            return reader.open_original(folder, config, device, dtype, options.allow_pickle)
        adapter = _native(folder, config)
        weight_files(folder, options.allow_pickle)
        opened = open_native(folder, adapter, device, dtype, options.allow_pickle)
        return replace(opened, notes=note_of(config))


def build_model(folder: Path, dtype: torch.dtype, options: ReadOptions = STRICT) -> Opened:
    """The same on the meta device, from configs alone. Raises ModelError, OptionError."""
    config = read_config(folder)
    with quiet():
        reader: object = reader_of(config)
        config |= _overrides(folder, reader, options)
        if isinstance(reader, Builder):
            return reader.build(folder, config, dtype)
        if reader is None:
            built = build_native(folder, _native(folder, config), dtype)
            return replace(built, notes=note_of(config))
    raise ModelError(
        f"{folder}: {layout_of(config)} layout says too little without its weights; "
        "give a folder that holds them"
    )


def _overrides(folder: Path, reader: object, options: ReadOptions) -> dict[str, Any]:
    """What the user says in place of a config. Raises OptionError."""
    if options.token_order is None:
        return {}
    if reader is not original_vila:
        raise OptionError("token_order", f"{folder} is not in VILA's original layout; leave it out")
    return {"token_order": options.token_order}


def reader_of(config: dict[str, Any]) -> Reader | None:
    """The reader of an original layout; None for ``transformers``' own or an unknown one."""
    return next((reader for reader in READERS if reader.is_original(config)), None)


def layout_of(config: dict[str, Any]) -> str:
    """What people call the layout of a folder that loads."""
    reader = reader_of(config)
    return "transformers" if reader is None else reader.LAYOUT


def _native(folder: Path, config: dict[str, Any]) -> type[NativeAdapter]:
    adapter = native_adapter(config)
    if adapter is not None:
        with refusing(folder):
            check_parts(config)
        return adapter
    found = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    raise ModelError(f"{folder}: {found} is not supported; supported: {'; '.join(SUPPORTED)}")


def stored_by(folder: Path) -> str | None:
    """The library that rounded a folder's weights before they were stored, if one did."""
    return rounded_by(read_config(folder))


def checkpoint_dtype(folder: Path) -> torch.dtype | None:
    """The type that config.json names, if any."""
    config = read_config(folder)
    name = config.get("dtype") or config.get("torch_dtype") or config.get("model_dtype")
    found = getattr(torch, str(name).removeprefix("torch."), None) if name else None
    return found if isinstance(found, torch.dtype) else None
