"""``sam-1024``: SAM's ViT-L with half its neck; 64 x 64 cells fold into 32 x 32, channels times 4.

Shapes: b pictures or windows, h x w cells of one, n = h·w, H heads, D head_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import (
    SamLayerNorm,
    SamVisionAttention,
    SamVisionEncoder,
)

from dyvte.models.families.eagle.tower import HEAD_DIM, SIDE, Shapes, Tower, as_rows, depth

FOLD = 2
BLOCK = 16
"""Rows of cells whose queries attend at once: a bias over all of 64 x 64 cells is 0.5 GiB a head
dozen, and its layout decides the time (``transformers`` copies it whole)."""


class SamAttention(SamVisionAttention):  # type: ignore[misc]
    """SAM's attention with relative positions, ``BLOCK`` rows of queries at a time."""

    def forward(
        self, hidden_states: Tensor, output_attentions: bool | None = None
    ) -> tuple[Tensor, None]:
        """``[b, h, w, d]`` → the same, and no weights."""
        del output_attentions
        height, width = hidden_states.shape[1:3]
        qkv = self.qkv(hidden_states).flatten(1, 2).unflatten(2, (3, self.num_attention_heads, -1))
        q_bHnD, k_bHnD, v_bHnD = qkv.permute(2, 0, 3, 1, 4)
        cells = q_bHnD.unflatten(2, (height, width))
        by_row = torch.einsum("bHhwD,hkD->bHhwk", cells, relative(self.rel_pos_h, height))
        by_column = torch.einsum("bHhwD,wkD->bHhwk", cells, relative(self.rel_pos_w, width))
        by_row, by_column = by_row.contiguous(), by_column.contiguous()
        blocks = []
        for start in range(0, height, BLOCK):
            rows = slice(start, start + BLOCK)
            bias = by_row[:, :, rows, :, :, None] + by_column[:, :, rows, :, None, :]
            blocks.append(
                F.scaled_dot_product_attention(
                    cells[:, :, rows].flatten(2, 3),
                    k_bHnD,
                    v_bHnD,
                    attn_mask=bias.flatten(4).flatten(2, 3),
                )
            )
        out = torch.cat(blocks, dim=2).transpose(1, 2).reshape(hidden_states.shape)
        return self.proj(out), None


def relative(table: Tensor, side: int) -> Tensor:
    """``[2·side - 1, D]`` → ``[side, side, D]``: the entry of each query's and key's distance."""
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places + side - 1]


class SamNeck(nn.Module):
    """A 1x1 convolution and a norm over channels: ``[B, g, g, d]`` → ``[B, C, g, g]``."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        width = config.output_channels
        self.conv1 = nn.Conv2d(config.hidden_size, width, kernel_size=1, bias=False)
        self.layer_norm1 = SamLayerNorm(width, data_format="channels_first")

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, g, g, d]`` → ``[B, C, g, g]``."""
        out: Tensor = self.layer_norm1(self.conv1(hidden.permute(0, 3, 1, 2)))
        return out


class SamTower(Tower):
    """Runs ``transformers``' ``SamVisionEncoder`` with the shorter neck."""

    name = "sam-1024"
    kind = "sam"

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SamVisionEncoder(config)
        self.encoder.neck = SamNeck(config)
        for layer in self.encoder.layers:
            layer.attn = SamAttention(config, layer.window_size)
        self.grid = SIDE // int(config.patch_size)
        self.width = config.output_channels * FOLD**2
        self.peak = config.num_attention_heads * BLOCK * self.grid**3  # a block's bias

    @classmethod
    def configured(cls, **sizes: Any) -> SamVisionConfig:
        """SAM ViT-L."""
        published = {
            "hidden_size": 1024,
            "mlp_dim": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 1024 // HEAD_DIM,
            "output_channels": 256,
            "global_attn_indexes": [5, 11, 17, 23],
            "window_size": 14,
            "patch_size": 16,
        }
        return SamVisionConfig(image_size=SIDE, **published | sizes)

    @classmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """Relative positions tell the head's width, and which layers see the whole picture."""
        width, _, patch, _ = shapes["patch_embed.projection.weight"]
        layers = depth(shapes, "layers")
        spans = [shapes[f"layers.{i}.attn.rel_pos_h"] for i in range(layers)]
        whole = 2 * (SIDE // patch) - 1
        windows = [span for span, _ in spans if span != whole]
        return {
            "hidden_size": width,
            "mlp_dim": shapes["layers.0.mlp.lin1.weight"][0],
            "num_hidden_layers": layers,
            "num_attention_heads": width // spans[0][1],
            "output_channels": shapes["neck.conv1.weight"][0],
            "global_attn_indexes": [i for i, (span, _) in enumerate(spans) if span == whole],
            "window_size": (windows[0] + 1) // 2 if windows else 0,
            "patch_size": patch,
        }

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """The same names, one level down."""
        return f"encoder.{name}"

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, width]``."""
        dtype = self.encoder.patch_embed.projection.weight.dtype
        features = self.encoder(pixels.to(dtype)).last_hidden_state
        return as_rows(F.pixel_unshuffle(features, FOLD))

    def flops(self) -> int:
        """Windows are padded to whole ones before the projections; each query meets every
        relative row and column of its window once."""
        shape, cells = self.config, self.grid**2
        d = shape.hidden_size
        total: int = 2 * cells * 3 * int(shape.patch_size) ** 2 * d
        for layer in range(shape.num_hidden_layers):
            whole = layer in shape.global_attn_indexes
            side = self.grid if whole else shape.window_size
            rows = (-(-self.grid // side) * side) ** 2
            total += 2 * rows * 4 * d * d + 4 * rows * side * side * d + 2 * rows * 2 * side * d
            total += 2 * cells * 2 * d * shape.mlp_dim
        total += 2 * cells * d * shape.output_channels
        return total
