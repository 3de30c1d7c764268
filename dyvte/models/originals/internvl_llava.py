"""InternVL-Chat 1.0: LLaVA's original layout around an InternViT tower.

The decoder, the projector and the conversation are LLaVA-1.5's; here is what differs. No file
says how pictures are made ready: the original code goes by the tower's name ("448" in it means
448 pixels a side, else 336) and takes ImageNet's mean and deviation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import CLIPImageProcessorPil, InternVLVisionConfig

from dyvte.models.originals import intern_vit
from dyvte.models.vision.tiles import MEAN, STD


def is_tower(tower: dict[str, Any]) -> bool:
    """True for the config of an InternViT."""
    return tower.get("model_type") in intern_vit.MODEL_TYPES


def side(name: str) -> int:
    """Pixels a side, by the name of the tower's folder."""
    return 448 if "448" in name else 336


def tower_config(tower: dict[str, Any], name: str) -> InternVLVisionConfig:
    """The tower's config for pictures of that size. Raises ModelError."""
    return intern_vit.vision_config(tower, side(name))


def tower_tensors(
    name: str, tensor: Tensor, config: InternVLVisionConfig
) -> Iterator[tuple[str, Tensor]]:
    """One tensor of the tower's folder under native names."""
    inner = re.sub(r"^(?:vision_model|vision_tower)\.", "", name)
    yield from intern_vit.native_tensors(inner, tensor, config)


def processor(name: str) -> Any:
    """Shortest side to size, centre crop, ImageNet's mean and deviation."""
    size = side(name)
    return CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
