"""``convnext-1024``: ConvNeXt-XXL (LAION-2B CLIP), stem and stages; the head's norm is left out.

Tensor names are timm's. Pixels go in channels-last, so that the norms between the convolutions
turn no tensor around.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import ConvNextConfig
from transformers.models.convnext.modeling_convnext import (
    ConvNextEmbeddings,
    ConvNextEncoder,
    ConvNextLayerNorm,
)

from dyvte.models.families.eagle.tower import SIDE, Shapes, Tower, as_rows, depth

EPS = 1e-5  # transformers' ConvNeXt has 1e-6
STAGES = 4
_NAMES = (
    (r"^stem\.0\.", "embeddings.patch_embeddings."),
    (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (
        r"^stages\.(\d+)\.blocks\.(\d+)\.weight$",
        r"encoder.stages.\1.layers.\2.layer_scale_parameter",
    ),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.norm\.", ".layernorm."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
)


class ConvNextTower(Tower):
    """Runs ``transformers``' ConvNeXt stem and encoder with timm's epsilon."""

    name = "convnext-1024"
    kind = "convnext"

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ConvNextEmbeddings(config)
        self.encoder = ConvNextEncoder(config)
        for module in self.modules():
            if isinstance(module, ConvNextLayerNorm):
                module.eps = EPS
        self.widths, self.depths = list(config.hidden_sizes or ()), list(config.depths or ())
        self.width = self.widths[-1]
        self.patch = int(config.patch_size)
        self.peak = (SIDE // self.patch) ** 2 * 4 * self.widths[0]

    @classmethod
    def configured(cls, **sizes: Any) -> ConvNextConfig:
        """ConvNeXt-XXL."""
        published = {"hidden_sizes": [384, 768, 1536, 3072], "depths": [3, 4, 30, 3]}
        return ConvNextConfig(**published | sizes)

    @classmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """Four stages, each with the width of its first block."""
        stages = range(STAGES)
        return {
            "hidden_sizes": [shapes[f"stages.{i}.blocks.0.conv_dw.weight"][0] for i in stages],
            "depths": [depth(shapes, f"stages.{i}.blocks") for i in stages],
        }

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """The classification head is not used."""
        if name.startswith("head."):
            return None
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        return name

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, width]``."""
        dtype = self.embeddings.patch_embeddings.weight.dtype
        inputs = pixels.to(dtype, memory_format=torch.channels_last)
        return as_rows(self.encoder(self.embeddings(inputs)).last_hidden_state)

    def flops(self) -> int:
        """Stem, the convolutions between stages, and per block 7x7 depthwise and two 1x1."""
        pixels = (SIDE // self.patch) ** 2
        total: int = 2 * pixels * 3 * self.patch**2 * self.widths[0]
        for stage, (width, blocks) in enumerate(zip(self.widths, self.depths, strict=True)):
            if stage:
                pixels //= 4
                total += 2 * pixels * 4 * self.widths[stage - 1] * width
            total += blocks * 2 * pixels * (49 * width + 8 * width * width)
        return total
