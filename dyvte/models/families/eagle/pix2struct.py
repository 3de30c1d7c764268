"""``pix2struct-1024``: Pix2Struct-L's vision encoder over 45 x 45 patches of the whole picture.

The picture is taken back to 0..255 and made standard by its own mean and deviation, as
``transformers``' ``Pix2StructImageProcessor`` does it. Of the 2048 patches that it may make a
square fills 45 x 45; the rest is masked there and left out here.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Pix2StructVisionConfig, Pix2StructVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from dyvte.models.families.eagle.tower import HEAD_DIM, Shapes, Tower, as_rows, depth, head_count

PATCH = 16
SQUARE = isqrt(2048)


class Pix2StructTower(Tower):
    """Runs the parts of ``transformers``' ``Pix2StructVisionModel``."""

    name = "pix2struct-1024"
    kind = "pix2struct"

    def __init__(self, config: Pix2StructVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Pix2StructVisionModel(config)
        self.width = config.hidden_size
        self.peak = SQUARE**2 * config.d_ff

    @classmethod
    def configured(cls, **sizes: Any) -> Pix2StructVisionConfig:
        """Pix2Struct-L."""
        published = {
            "hidden_size": 1536,
            "d_ff": 3968,
            "d_kv": HEAD_DIM,
            "num_hidden_layers": 18,
            "num_attention_heads": 24,
            "patch_embed_hidden_size": 3 * PATCH**2,
            "seq_len": 4096,
        }
        return Pix2StructVisionConfig(**published | sizes)

    @classmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """``d_kv`` is the width of all queries, shared out among the heads."""
        width, inputs = shapes["embeddings.patch_projection.weight"]
        queries = shapes["encoder.layer.0.attention.query.weight"][0]
        heads = heads or head_count(queries)
        return {
            "hidden_size": width,
            "d_ff": shapes["encoder.layer.0.mlp.wi_0.weight"][0],
            "d_kv": queries // heads,
            "num_hidden_layers": depth(shapes, "encoder.layer"),
            "num_attention_heads": heads,
            "patch_embed_hidden_size": inputs,
            "seq_len": shapes["embeddings.row_embedder.weight"][0],
        }

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """The same names, one level down."""
        return f"encoder.{name}"

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, width]``."""
        embeddings = self.encoder.embeddings
        hidden = embeddings.patch_projection(
            patches(pixels).to(embeddings.patch_projection.weight.dtype)
        )
        places = slice(1, SQUARE + 1)  # place 0 is padding's
        rows, columns = embeddings.row_embedder.weight, embeddings.column_embedder.weight
        hidden = hidden + rows[places].repeat_interleave(SQUARE, 0)
        hidden = hidden + columns[places].repeat(SQUARE, 1)
        hidden = self.encoder.encoder(hidden, attention_mask=None).last_hidden_state
        hidden = self.encoder.layernorm(hidden)
        return as_rows(hidden.transpose(1, 2).unflatten(2, (SQUARE, SQUARE)))

    def flops(self) -> int:
        """Patch projection and every layer over the square's patches."""
        shape, rows = self.config, SQUARE**2
        d, queries = shape.hidden_size, shape.num_attention_heads * shape.d_kv
        layer = 2 * rows * (4 * d * queries + 3 * d * shape.d_ff) + 4 * rows * rows * queries
        total: int = 2 * rows * shape.patch_embed_hidden_size * d + shape.num_hidden_layers * layer
        return total


def patches(pixels: Tensor) -> Tensor:
    """``[B, 3, H, W]`` normalised as CLIP's → ``[B, SQUARE², 3·PATCH²]``, all in float32."""
    values = pixels.float()
    mean = values.new_tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)
    std = values.new_tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    bytes_B3HW = (values * std + mean) * 255.0
    deviation, centre = torch.std_mean(bytes_B3HW, dim=(1, 2, 3), correction=0, keepdim=True)
    least = bytes_B3HW[0].numel() ** -0.5  # a plain picture has no deviation
    standard = (bytes_B3HW - centre) / deviation.clamp(min=least)
    side = SQUARE * PATCH
    small = F.interpolate(
        standard, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    cut = small.view(-1, 3, SQUARE, PATCH, SQUARE, PATCH)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(-1, SQUARE**2, 3 * PATCH**2)
