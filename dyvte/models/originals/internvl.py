"""Reader for InternVL chat 1.5, 2 and 2.5 as their authors published them.

One ``config.json`` (``internvl_chat``) holds ``vision_config`` and ``llm_config``; the tensors lie
at ``vision_model.*``, ``language_model.*`` and ``mlp1.*``. All of it is mapped onto the class that
``transformers`` has for the family; InternLM2, whose queries, keys and values are one matrix, onto
Llama. The name in ``template`` chooses the conversation format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from dyvte.errors import ModelError
from dyvte.models.checkpoints.meta import on_meta
from dyvte.models.checkpoints.opened import Opened, implementations, refusing
from dyvte.models.families.internvl_chat import COLUMNS, SHUFFLES, InternVLChatAdapter
from dyvte.models.originals.expected import check_tensors, filled
from dyvte.models.originals.files import architecture, decoder_settings, shapes, tensors
from dyvte.models.originals.intern_vit import native_tensors, vision_config
from dyvte.models.originals.reader import NativeWeights
from dyvte.models.originals.tokenizers import read_tokenizer
from dyvte.models.prompts.conversation_formats import internvl_format
from dyvte.models.prompts.conversations import ConversationChat
from dyvte.models.vision.tiles import MEAN, STD, TileProcessor

LAYOUT = "InternVL chat's original"
DECODERS: dict[str, type[PreTrainedConfig]] = {
    "InternLM2ForCausalLM": LlamaConfig,
    "LlamaForCausalLM": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
}
_PROJECTOR = {"mlp1.0.": "layer_norm.", "mlp1.1.": "linear_1.", "mlp1.3.": "linear_2."}
_INTERNLM2 = (
    (r"\.attention\.wo\.", ".self_attn.o_proj."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.feed_forward\.w1\.", ".mlp.gate_proj."),
    (r"\.feed_forward\.w3\.", ".mlp.up_proj."),
    (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    (r"^model\.tok_embeddings\.", "model.embed_tokens."),
    (r"^output\.", "lm_head."),
)


def is_original(config: dict[str, Any]) -> bool:
    """True for a config of the original code (the native one says ``internvl``)."""
    return config.get("model_type") == "internvl_chat"


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
        form = internvl_format(config.get("template"))
        chat = ConversationChat(tokenizer, form) if tokenizer is not None else None
        process = tile_processor(config)
        model = _model(folder, config, dtype, allow_pickle)
        model.generation_config = generation_config(config)
        adapter = InternVLChatAdapter(model.to(device), None, shuffle_of(config))
        if chat is not None:
            adapter.eos_token_ids |= chat.stop_ids
        return Opened(adapter, folder, tokenizer, chat, process)


def _model(folder: Path, config: dict[str, Any], dtype: torch.dtype, allow_pickle: bool) -> Any:
    """On the CPU; when this returns nobody else holds a weight."""
    weights = _read(folder, config, allow_pickle, dtype)
    kind = InternVLForConditionalGeneration
    return filled(kind, weights.config, weights.state, dtype, implementations())


def build(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
    """The same on the meta device: no weight is read. Raises ModelError."""
    with refusing(folder):
        model = on_meta(InternVLForConditionalGeneration, native_config(config), dtype)
        model.generation_config = generation_config(config)
        adapter = InternVLChatAdapter(model, None, shuffle_of(config))
        return Opened(adapter, folder, None, None, tile_processor(config))


def native_weights(
    folder: Path, config: dict[str, Any], allow_pickle: bool = False
) -> NativeWeights:
    """All that a folder in ``transformers``' layout holds. Raises ModelError for what it cannot."""
    with refusing(folder):
        if shuffle_of(config) == COLUMNS:
            raise ModelError(f"ps_version {COLUMNS!r} has no word in transformers' own layout")
        tokenizer, form = read_tokenizer(folder), internvl_format(config.get("template"))
        stops = ConversationChat(tokenizer, form).stop_ids if tokenizer is not None else frozenset()
        end = config["llm_config"].get("eos_token_id", 2)
        return replace(
            _read(folder, config, allow_pickle),
            generation=GenerationConfig(eos_token_id=sorted({end, *stops})),
            tokenizer=tokenizer,
            conversation=form,
            image_processor=native_image_processor(config),
        )


def native_image_processor(config: dict[str, Any]) -> Any:
    """The one that ``transformers`` gives the family. Raises ModelError for what it does not do."""
    tiles = tile_processor(config)
    if tiles.pad or (tiles.dynamic and not tiles.thumbnail):
        raise ModelError("pad2square, or tiles without a thumbnail, cannot be said there")
    from transformers import GotOcr2ImageProcessor  # warns of missing torchvision on import

    return GotOcr2ImageProcessor(
        size={"height": tiles.side, "width": tiles.side},
        crop_to_patches=True,
        min_patches=tiles.fewest if tiles.dynamic else 1,
        max_patches=tiles.most if tiles.dynamic else 1,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def _read(
    folder: Path,
    config: dict[str, Any],
    allow_pickle: bool = False,
    dtype: torch.dtype | None = None,
) -> NativeWeights:
    """In ``dtype`` (None: as stored); settings, names and shapes are looked at before a weight."""
    native = native_config(config)
    empty = on_meta(InternVLForConditionalGeneration, native, torch.float32)
    empty.generation_config = generation_config(config)
    InternVLChatAdapter(empty, None, shuffle_of(config))  # refuses what it does not do
    rename = partial(_native_tensors, config=config, native=native)
    tied = native.tie_word_embeddings
    check_tensors(empty, (shapes(folder, allow_pickle), rename), tied=tied)
    state = {
        new: part.to(dtype or part.dtype)
        for name, tensor in tensors(folder, allow_pickle)
        for new, part in rename(name, tensor)
    }
    return NativeWeights(native, state, None)


def native_config(config: dict[str, Any]) -> InternVLConfig:
    """The same model in ``transformers``' words. Raises ModelError for what it cannot say."""
    internvl_format(config.get("template"))
    shuffle_of(config)
    for key in ("llm_config", "vision_config"):
        if not isinstance(config[key], dict):
            raise ModelError(f"config.json: {key} {config[key]!r} is not an object")
    ratio = config.get("downsample_ratio", 0.5)
    if not isinstance(ratio, (int, float)) or ratio <= 0 or (1 / ratio) % 1:
        raise ModelError(f"downsample_ratio {ratio!r} is not 1 over a whole number")
    text = text_config(config["llm_config"])
    side = config.get("force_image_size")
    return InternVLConfig(
        vision_config=vision_config(config["vision_config"], side),
        text_config=text,
        image_token_id=text.vocab_size - 1,  # never looked up: rows are laid in by span
        downsample_ratio=ratio,
        vision_feature_layer=config.get("select_layer", -1),
        vision_feature_select_strategy="default",
        tie_word_embeddings=bool(config["llm_config"].get("tie_word_embeddings", False)),
    )


def text_config(llm: dict[str, Any]) -> PreTrainedConfig:
    """The decoder's config. Raises ModelError for a decoder that is not supported."""
    name = architecture(llm)
    if name not in DECODERS:
        raise ModelError(f"llm_config of {name!r} is not supported ({', '.join(DECODERS)} are)")
    settings = decoder_settings(llm)
    if name == "InternLM2ForCausalLM":
        settings["attention_bias"] = bool(llm.get("bias", True))
    for key in ("use_sliding_window", "sliding_window", "max_window_layers"):
        if DECODERS[name] is not LlamaConfig and llm.get(key) is not None:
            settings[key] = llm[key]
    return DECODERS[name](**settings)


def shuffle_of(config: dict[str, Any]) -> str:
    """Version of the pixel shuffle; an older config that names none means the first."""
    found = config.get("ps_version", SHUFFLES[0])
    if found not in SHUFFLES:
        raise ModelError(f"ps_version {found!r} is not known ({', '.join(SHUFFLES)} are)")
    return str(found)


def generation_config(config: dict[str, Any]) -> GenerationConfig:
    """Where an answer ends as the decoder's config says it; the format adds its own."""
    return GenerationConfig(eos_token_id=config["llm_config"].get("eos_token_id", 2))


def tile_processor(config: dict[str, Any]) -> TileProcessor:
    """How pictures become tiles. Raises ModelError."""
    fewest, most = config.get("min_dynamic_patch", 1), config.get("max_dynamic_patch", 6)
    if not 1 <= fewest <= most:
        raise ModelError(
            f"min_dynamic_patch {fewest} and max_dynamic_patch {most} allow no number of tiles"
        )
    return TileProcessor(
        side=config.get("force_image_size") or config["vision_config"].get("image_size", 224),
        dynamic=bool(config.get("dynamic_image_size", False)),
        fewest=fewest,
        most=most,
        thumbnail=bool(config.get("use_thumbnail", False)),
        pad=bool(config.get("pad2square", False)),
    )


def _native_tensors(
    name: str, tensor: Tensor, config: dict[str, Any], native: InternVLConfig
) -> Iterator[tuple[str, Tensor]]:
    """One tensor under native names; its own name where there is no other."""
    if name.endswith("rotary_emb.inv_freq"):
        return
    if name.startswith("vision_model."):
        inner = name.removeprefix("vision_model.")
        for new, part in native_tensors(inner, tensor, native.vision_config):
            yield f"model.vision_tower.{new}", part
        return
    for prefix, module in _PROJECTOR.items():
        if name.startswith(prefix):
            name = f"model.multi_modal_projector.{module}{name.removeprefix(prefix)}"
    if not name.startswith("language_model."):
        yield name, tensor
        return
    inner = name.removeprefix("language_model.")
    fused = architecture(config["llm_config"]) == "InternLM2ForCausalLM"
    parts = _apart(_llama_name(inner), tensor, native.text_config) if fused else [(inner, tensor)]
    for new, part in parts:
        yield (new if new.startswith("lm_head.") else f"model.language_{new}"), part


def _llama_name(name: str) -> str:
    for pattern, new in _INTERNLM2:
        name = re.sub(pattern, new, name)
    return name


def _apart(name: str, tensor: Tensor, text: Any) -> Iterator[tuple[str, Tensor]]:
    """InternLM2's ``wqkv``: each key/value head's group of queries, then its key and value."""
    if ".attention.wqkv." not in name:
        yield name, tensor
        return
    groups = text.num_attention_heads // text.num_key_value_heads
    heads = tensor.unflatten(0, (text.num_key_value_heads, groups + 2, -1))
    parts = {"q": heads[:, :groups], "k": heads[:, groups : groups + 1], "v": heads[:, -1:]}
    for letter, part in parts.items():
        yield name.replace("attention.wqkv", f"self_attn.{letter}_proj"), part.flatten(0, 2)
