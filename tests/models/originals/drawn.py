"""Random checkpoints in the original layouts, of any settings: what the goldens are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden"
Shapes = dict[str, tuple[int, ...]]


def draw(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Weights that keep the size of what passes through; norms near 1, biases small."""
    random = torch.Generator().manual_seed(seed)

    def one(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=random)
        if name.endswith("bias"):
            return 0.1 * noise
        if len(shape) == 1:
            return 1 + 0.1 * noise
        return noise * (1.0 if "emb" in name else 1.5 / torch.tensor(shape[1:]).prod().sqrt())

    return {name: one(name, shape) for name, shape in shapes.items()}


def save(folder: Path, config: Mapping[str, Any], shapes: Shapes, seed: int = 0) -> None:
    """``config.json``, and weights where there are some."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shapes:
        save_file(draw(shapes, seed), folder / "model.safetensors", metadata={"format": "pt"})


def said(*path: str) -> dict[str, Any]:
    """A golden's config."""
    found: dict[str, Any] = json.loads(GOLDEN.joinpath(*path, "config.json").read_text())
    return found


def llama(llm: Mapping[str, Any], prefix: str = "", qkv_bias: bool = False) -> Shapes:
    """Tensors of a Llama or, with biases, a Qwen2."""
    d, m, heads = llm["hidden_size"], llm["intermediate_size"], llm["num_attention_heads"]
    dim = llm.get("head_dim") or d // heads
    kv = dim * (llm.get("num_key_value_heads") or heads)
    found: Shapes = {"model.embed_tokens.weight": (llm["vocab_size"], d), "model.norm.weight": (d,)}
    if not llm.get("tie_word_embeddings"):
        found["lm_head.weight"] = (llm["vocab_size"], d)
    for index in range(llm["num_hidden_layers"]):
        layer: Shapes = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        layer |= {"mlp.gate_proj.weight": (m, d), "mlp.up_proj.weight": (m, d)}
        layer |= {"mlp.down_proj.weight": (d, m), "self_attn.o_proj.weight": (d, dim * heads)}
        for name, width in (("q", dim * heads), ("k", kv), ("v", kv)):
            layer[f"self_attn.{name}_proj.weight"] = (width, d)
            if qkv_bias:
                layer[f"self_attn.{name}_proj.bias"] = (width,)
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return {f"{prefix}{name}": shape for name, shape in found.items()}


def internlm2(llm: Mapping[str, Any], prefix: str) -> Shapes:
    """Tensors of an InternLM2."""
    d, m, heads = llm["hidden_size"], llm["intermediate_size"], llm["num_attention_heads"]
    fused = d + 2 * (d // heads) * llm["num_key_value_heads"]
    found: Shapes = {"model.norm.weight": (d,)}
    found |= dict.fromkeys(("model.tok_embeddings.weight", "output.weight"), (llm["vocab_size"], d))
    for index in range(llm["num_hidden_layers"]):
        layer: Shapes = {"attention_norm.weight": (d,), "ffn_norm.weight": (d,)}
        layer |= {"attention.wqkv.weight": (fused, d), "attention.wo.weight": (d, d)}
        if llm["bias"]:
            layer |= {"attention.wqkv.bias": (fused,), "attention.wo.bias": (d,)}
        layer |= {"feed_forward.w1.weight": (m, d), "feed_forward.w3.weight": (m, d)}
        layer |= {"feed_forward.w2.weight": (d, m)}
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return {f"{prefix}{name}": shape for name, shape in found.items()}


def clip(tower: Mapping[str, Any]) -> Shapes:
    """Tensors of a CLIP or SigLIP tower."""
    d, m, patch = tower["hidden_size"], tower["intermediate_size"], tower["patch_size"]
    is_clip = tower["model_type"] == "clip_vision_model"
    rows = (tower["image_size"] // patch) ** 2 + is_clip
    found: Shapes = {"embeddings.patch_embedding.weight": (d, 3, patch, patch)}
    found["embeddings.position_embedding.weight"] = (rows, d)
    if is_clip:
        found["embeddings.class_embedding"] = (d,)
    else:
        found["embeddings.patch_embedding.bias"] = (d,)
    for name in ("pre_layrnorm", "post_layernorm")[0 if is_clip else 1 :]:
        found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    pairs = {f"self_attn.{name}_proj": (d, d) for name in ("q", "k", "v", "out")}
    pairs |= {"mlp.fc1": (m, d), "mlp.fc2": (d, m)}
    for index in range(tower["num_hidden_layers"]):
        start = f"encoder.layers.{index}."
        found |= {f"{start}{name}.weight": shape for name, shape in pairs.items()}
        found |= {f"{start}{name}.bias": shape[:1] for name, shape in pairs.items()}
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{start}{name}.weight": (d,), f"{start}{name}.bias": (d,)}
    return {f"vision_model.{name}": shape for name, shape in found.items()}


def intern_vit(tower: Mapping[str, Any], prefix: str = "") -> Shapes:
    """Tensors of an InternViT."""
    d, m, patch = tower["hidden_size"], tower["intermediate_size"], tower["patch_size"]
    rows = 1 + (tower["image_size"] // patch) ** 2
    found: Shapes = {"embeddings.class_embedding": (1, 1, d)}
    found["embeddings.position_embedding"] = (1, rows, d)
    found["embeddings.patch_embedding.weight"] = (d, 3, patch, patch)
    found["embeddings.patch_embedding.bias"] = (d,)
    for index in range(tower["num_hidden_layers"]):
        layer: Shapes = dict.fromkeys(("ls1", "ls2", "norm1.weight", "norm2.weight"), (d,))
        if tower["norm_type"] == "layer_norm":
            layer |= {"norm1.bias": (d,), "norm2.bias": (d,)}
        layer |= {"attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d), "attn.proj.bias": (d,)}
        if tower["qkv_bias"]:
            layer["attn.qkv.bias"] = (3 * d,)
        if tower["qk_normalization"]:
            layer |= {"attn.q_norm.weight": (d,), "attn.k_norm.weight": (d,)}
        layer |= {"mlp.fc1.weight": (m, d), "mlp.fc1.bias": (m,)}
        layer |= {"mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,)}
        found |= {f"encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return {f"{prefix}{name}": shape for name, shape in found.items()}


def llava(folder: Path, tower: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """LLaVA-1.5's layout; returns its config."""
    source = GOLDEN / "llava-original" / "checkpoint"
    config = said("llava-original", "checkpoint") | changes
    seen = said("llava-original", "checkpoint", "vision_tower") | dict(tower or {})
    d, c = config["hidden_size"], seen["hidden_size"]
    shapes = llama(config)
    shapes |= {"model.mm_projector.0.weight": (d, c), "model.mm_projector.0.bias": (d,)}
    shapes |= {"model.mm_projector.2.weight": (d, d), "model.mm_projector.2.bias": (d,)}
    save(folder, config, shapes)
    save(folder / "vision_tower", seen, clip(seen), seed=1)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, folder)
    pictures = json.loads((source / "vision_tower" / "preprocessor_config.json").read_text())
    side = seen["image_size"]
    pictures |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(pictures))
    return config


def internvl(
    folder: Path,
    variant: str,
    llm: Mapping[str, Any] | None = None,
    tower: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """InternVL chat's layout around one of the goldens' decoders; returns its config."""
    config = said("internvl-original", variant, "checkpoint") | changes
    config["llm_config"] |= dict(llm or {})
    config["vision_config"] |= dict(tower or {})
    text, seen = config["llm_config"], config["vision_config"]
    d = text["hidden_size"]
    joined = seen["hidden_size"] * round(1 / config["downsample_ratio"]) ** 2
    fused = text["architectures"] == ["InternLM2ForCausalLM"]
    qkv_bias = text["architectures"] == ["Qwen2ForCausalLM"]
    start = "language_model."
    shapes = internlm2(text, start) if fused else llama(text, start, qkv_bias)
    shapes |= intern_vit(seen, "vision_model.")
    shapes |= {"mlp1.0.weight": (joined,), "mlp1.0.bias": (joined,)}
    shapes |= {"mlp1.1.weight": (d, joined), "mlp1.1.bias": (d,)}
    shapes |= {"mlp1.3.weight": (d, d), "mlp1.3.bias": (d,)}
    save(folder, config, shapes)
    return config


def vila(
    folder: Path,
    llm: Mapping[str, Any] | None = None,
    tower: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """VILA's layout; returns its config, the parts' under ``llm`` and ``tower``."""
    source = GOLDEN / "vila-original" / "checkpoint"
    text = said("vila-original", "checkpoint", "llm") | dict(llm or {})
    seen = said("vila-original", "checkpoint", "vision_tower") | dict(tower or {})
    config = said("vila-original", "checkpoint") | changes
    d, c = text["hidden_size"], 4 * seen["hidden_size"]
    shapes: Shapes = {"layers.1.weight": (c,), "layers.1.bias": (c,)}
    shapes |= {"layers.2.weight": (d, c), "layers.2.bias": (d,)}
    shapes |= {"layers.4.weight": (d, d), "layers.4.bias": (d,)}
    save(folder, config, {})
    save(folder / "llm", text, llama(text))
    save(folder / "vision_tower", seen, clip(seen), seed=1)
    save(folder / "mm_projector", said("vila-original", "checkpoint", "mm_projector"), shapes, 2)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / "llm" / name, folder / "llm")
    pictures = json.loads((source / "vision_tower" / "preprocessor_config.json").read_text())
    pictures |= {"size": {"height": seen["image_size"], "width": seen["image_size"]}}
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(pictures))
    return config | {"llm": text, "tower": seen}
