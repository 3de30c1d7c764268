"""``clip-448``: CLIP ViT-L/14 at 336 pixels (whatever its name says), over the patches alone.

The class token is taken off before the first norm, every layer runs, and no norm follows.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from dyvte.models.families.eagle.tower import Shapes, Tower, as_rows, depth, head_count, resize

_OLDER = "vision_model."


class ClipTower(Tower):
    """Runs the parts of ``transformers``' ``CLIPVisionModel``."""

    name = "clip-448"
    kind = "clip"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CLIPVisionModel(config)
        self.width = config.hidden_size
        self.side = int(config.image_size)
        self.grid = self.side // int(config.patch_size)
        self.peak = self.grid**2 * max(config.intermediate_size, config.num_attention_heads)

    @classmethod
    def configured(cls, **sizes: Any) -> CLIPVisionConfig:
        """CLIP ViT-L/14-336."""
        published = {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        }
        return CLIPVisionConfig(**published | sizes)

    @classmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """The picture's side follows from the number of positions."""
        width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
        positions = shapes["vision_model.embeddings.position_embedding.weight"][0]
        return {
            "hidden_size": width,
            "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": depth(shapes, "vision_model.encoder.layers"),
            "num_attention_heads": heads or head_count(width),
            "image_size": patch * isqrt(positions - 1),
            "patch_size": patch,
        }

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """Indices of positions, which older code stored, are not used."""
        if name.endswith("embeddings.position_ids"):
            return None
        return f"encoder.{name.removeprefix(_OLDER)}"

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, width]``."""
        embeddings = self.encoder.embeddings
        weight = embeddings.patch_embedding.weight
        patches = embeddings.patch_embedding(resize(pixels, self.side).to(weight.dtype))
        hidden = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding.weight[1:]
        hidden = self.encoder.pre_layrnorm(hidden)
        hidden = self.encoder.encoder(inputs_embeds=hidden).last_hidden_state
        return as_rows(hidden.transpose(1, 2).unflatten(2, (self.grid, self.grid)))

    def flops(self) -> int:
        """Patch embedding and every layer over ``grid²`` rows."""
        shape, rows = self.config, self.grid**2
        d, m = shape.hidden_size, shape.intermediate_size
        embed = 2 * rows * 3 * (self.side // self.grid) ** 2 * d
        layer = 2 * rows * (4 * d * d + 2 * d * m) + 4 * rows * rows * d
        total: int = embed + shape.num_hidden_layers * layer
        return total
