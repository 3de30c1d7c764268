"""InternViT as its authors publish it, in the words of ``transformers``' InternVL tower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import InternVLVisionConfig

from dyvte.errors import ModelError

MODEL_TYPES = ("intern_vit_6b",)
_DEFAULTS = {  # of the published InternVisionConfig: what an older file does not say
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "qkv_bias": False,
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "num_hidden_layers": 48,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
}
_NAMES = (
    (r"^embeddings\.class_embedding$", "embeddings.cls_token"),
    (r"^embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^embeddings\.position_embedding$", "embeddings.position_embeddings"),
    (r"^encoder\.layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.", ".attention."),
    (r"\.ls([12])$", r".lambda_\1"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)


def vision_config(tower: dict[str, Any], side: int | None = None) -> InternVLVisionConfig:
    """The tower's config, for images of ``side`` (None: its own). Raises ModelError."""
    if tower.get("model_type", MODEL_TYPES[0]) not in MODEL_TYPES:
        raise ModelError(
            f"vision tower {tower['model_type']!r} is not supported ({', '.join(MODEL_TYPES)})"
        )
    said = _DEFAULTS | {key: tower[key] for key in _DEFAULTS if tower.get(key) is not None}
    if said["norm_type"] not in ("rms_norm", "layer_norm"):
        raise ModelError(f"norm_type {said['norm_type']!r} of the vision tower is not supported")
    if said["qk_normalization"] and said["layer_norm_eps"] != 1e-6:
        raise ModelError(
            f"a vision tower that norms its queries with layer_norm_eps {said['layer_norm_eps']} "
            "is not supported (1e-6 is)"
        )
    return InternVLVisionConfig(
        attention_bias=said.pop("qkv_bias"),
        use_qk_norm=said.pop("qk_normalization"),
        **(said | {"image_size": side or said["image_size"]}),
    )


def native_tensors(
    name: str, tensor: Tensor, config: InternVLVisionConfig
) -> Iterator[tuple[str, Tensor]]:
    """One tensor of a tower under native names: queries, keys and values apart."""
    if name == "embeddings.position_embedding":
        tensor = fit_positions(tensor, config.image_size[0] // config.patch_size[0])
    for pattern, native in _NAMES:
        name = re.sub(pattern, native, name)
    if ".attention.qkv." not in name:
        yield name, tensor
        return
    for letter, part in zip("qkv", tensor.chunk(3), strict=True):
        yield name.replace(".qkv.", f".{letter}_proj."), part


def fit_positions(table: Tensor, grid: int) -> Tensor:
    """``[1, 1 + n², d]`` for a grid of another side, bicubic, as the original does when run."""
    side = round((table.shape[1] - 1) ** 0.5)
    if side == grid:
        return table
    square = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    fitted = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    rows = fitted.flatten(2).transpose(1, 2)
    return torch.cat([table[:, :1].float(), rows], dim=1)
