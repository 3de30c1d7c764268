"""Reader for EAGLE X4/X5 checkpoints as their authors published them.

``config.json`` is LLaVA's with ``model_type`` ``eagle_llama`` and several towers' names in
``mm_vision_tower``, joined by ``;``. All towers lie inside the one set of weights, at
``model.vision_tower.vision_towers.N.vision_tower.*``. No file says how large they are: that is
read from the shapes in the files' headers, before a weight is read. The number of attention heads
is in no shape where towers have no tables of positions; see ``head_count``. An optional
``tower_configs.json`` in the folder says it for towers unlike the published ones:
``{"clip": {"num_attention_heads": 2}, "eva": {…}, "pix2struct": {…}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil, GenerationConfig

from dyvte.errors import ModelError
from dyvte.exits.files import bank_from, gate_key, gates_inside
from dyvte.exits.gate import GateBank
from dyvte.models.checkpoints.meta import on_meta
from dyvte.models.checkpoints.opened import Opened, implementations, refusing
from dyvte.models.families.eagle.adapter import EagleAdapter
from dyvte.models.families.eagle.model import (
    EagleConfig,
    EagleForCausalLM,
    native_name,
    tower_class,
)
from dyvte.models.families.eagle.tower import SIDE, Shapes
from dyvte.models.originals.expected import check_tensors, filled
from dyvte.models.originals.files import decoder_settings, shapes, tensors
from dyvte.models.originals.tokenizers import read_tokenizer
from dyvte.models.prompts.conversation_formats import LLAMA_3_ROWS, VICUNA_V1, VILA_HERMES_2
from dyvte.models.prompts.conversations import Conversation, ConversationChat
from dyvte.models.vision.images import ImageProcessor, pad_to_square

LAYOUT = "EAGLE's original"
MODEL_TYPES = ("eagle_llama",)
SETTINGS = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("flat", None),
    "mm_use_im_start_end": (False, None),
    "image_aspect_ratio": ("pad", "square", None),
}
"""What the original does under other settings is not done here."""
HEADS_FILE = "tower_configs.json"


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code."""
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
        stored = shapes(folder, allow_pickle)
        native = native_config(config, stored, read_heads(folder))
        names = native_names(stored, tower_names(config))
        empty = on_meta(EagleForCausalLM, native, torch.float32, attention())
        empty.generation_config = generation_config(config)
        EagleAdapter(empty)  # refuses what it does not do
        check_tensors(empty, (stored, partial(_own, names)), tied=native.tie_word_embeddings)
        tokenizer = read_tokenizer(folder)
        chat = ConversationChat(tokenizer, conversation(tokenizer)) if tokenizer else None
        model, gates = _model(folder, native, names, dtype, allow_pickle)
        model.generation_config = generation_config(config)
        adapter = EagleAdapter(model.to(device), gates)
        adapter.eos_token_ids |= chat.stop_ids if chat else frozenset()
        return Opened(adapter, folder, tokenizer, chat, image_processor(config))


def _own(names: Mapping[str, str], name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in names:
        yield names[name], tensor


def _model(
    folder: Path,
    native: EagleConfig,
    names: Mapping[str, str],
    dtype: torch.dtype,
    allow_pickle: bool,
) -> tuple[Any, GateBank | None]:
    """On the CPU; when this returns nobody else holds a weight."""
    state, gates = read_tensors(folder, names, allow_pickle, dtype)
    return filled(EagleForCausalLM, native, state, dtype, attention()), gates


def build(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
    """The same on the meta device; where weights are there, of their sizes. Raises ModelError."""
    with refusing(folder):
        found = shapes(folder) if any(folder.glob("*.safetensors")) else None
        native = native_config(config, found, read_heads(folder))
        model = on_meta(EagleForCausalLM, native, dtype, attention())
        model.generation_config = generation_config(config)
        adapter = EagleAdapter(model, gates_inside(folder))
        return Opened(adapter, folder, None, None, image_processor(config))


def attention() -> dict[str, str]:
    """Ours in the decoder; the towers choose their own."""
    return {"text_config": implementations()["text_config"]}


def generation_config(config: dict[str, Any]) -> GenerationConfig:
    """Where an answer ends; Llama's own id where the config has none."""
    return GenerationConfig(eos_token_id=config.get("eos_token_id", 2))


def conversation(tokenizer: Any) -> Conversation:
    """The format that the original's examples use with a decoder, known by its specials.

    Vicuna (X4/X5-7B, 13B), Llama 3 (8B) under Vicuna's system message, Yi (34B).
    """
    known = tokenizer.get_vocab()
    if "<|start_header_id|>" in known:
        return replace(LLAMA_3_ROWS, name="llama3", default_system=VICUNA_V1.default_system)
    if "<|im_start|>" in known:
        return replace(VILA_HERMES_2, name="yi_34b_chatml_direct")
    return VICUNA_V1


def native_config(
    config: dict[str, Any],
    stored: Mapping[str, Sequence[int]] | None = None,
    heads: Mapping[str, int] | None = None,
) -> EagleConfig:
    """The same model in our words. Raises ModelError for what it cannot say.

    ``stored`` are the shapes of the checkpoint's tensors; without them towers have their published
    sizes. ``heads`` are those of towers (by kind) that say so.
    """
    for key, values in SETTINGS.items():
        if config.get(key) not in values:
            known = " or ".join(map(str, values))
            raise ModelError(f"{key} {config.get(key)!r} is not supported ({known} is)")
    towers = []
    for index, name in enumerate(tower_names(config)):
        inside = tower_shapes(stored or {}, index)
        kind = tower_class(name)
        if stored is not None and not inside:
            raise ModelError(f"the checkpoint has no tensors of tower {index} ({name})")
        try:
            sizes = kind.sizes(inside, (heads or {}).get(kind.kind)) if inside else {}
        except KeyError as error:
            raise ModelError(f"tower {index} is no {name}: it has no tensor {error}") from error
        towers.append((name, sizes))
    text = decoder_settings(config)
    return EagleConfig(
        text_config=text,
        towers=towers,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


def tower_names(config: dict[str, Any]) -> list[str]:
    """``mm_vision_tower``, in the order of the towers' channels. Raises ModelError."""
    names = str(config["mm_vision_tower"]).split(";")
    for name in names:
        tower_class(name)
    return names


def tower_shapes(stored: Mapping[str, Sequence[int]], index: int) -> Shapes:
    """Those of one tower, by their names within it."""
    start = f"model.vision_tower.vision_towers.{index}.vision_tower."
    return {k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)}


def read_heads(folder: Path) -> dict[str, int]:
    """Attention heads by kind of tower, from ``tower_configs.json`` if there is one."""
    path = folder / HEADS_FILE
    if not path.exists():
        return {}
    said = json.loads(path.read_text())
    found = {k: v.get("num_attention_heads", v.get("num_heads")) for k, v in said.items()}
    return {kind: int(heads) for kind, heads in found.items() if heads is not None}


def native_names(stored: Iterable[str], towers: Sequence[str]) -> dict[str, str]:
    """Our names of the tensors that are used, gates apart. Raises ModelError for unknown ones."""
    named = {name: native_name(name, towers) for name in stored if not gate_key(name)}
    return {name: native for name, native in named.items() if native is not None}


def read_tensors(
    folder: Path,
    names: Mapping[str, str],
    allow_pickle: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], GateBank | None]:
    """The weights in ``names`` under our names, in ``dtype`` (None: as stored), and the gates.

    Raises ModelError.
    """
    state: dict[str, Tensor] = {}
    gates: dict[str, Tensor] = {}
    for name, tensor in tensors(folder, allow_pickle):
        if gate_key(name):
            gates[name] = tensor
        elif name in names:
            state[names[name]] = tensor.to(dtype or tensor.dtype)
    return state, bank_from(gates) if gates else None


def image_processor(config: dict[str, Any]) -> ImageProcessor:
    """CLIP's (on PIL) with pictures of SIDE pixels: the original sets it in code."""
    size = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    pad = config.get("image_aspect_ratio") == "pad"
    return ImageProcessor(processor, pad_to_square if pad else None)
