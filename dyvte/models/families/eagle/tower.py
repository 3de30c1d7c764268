"""What the five towers share: one picture size in, one grid of rows out, a cost in closed form.

Checkpoints tell a tower's name and its weights, but no sizes: the original takes them from code
and hub names. Widths and depths are read off the weights' shapes here, so that a smaller
checkpoint loads as well; the published sizes stand in where there are no weights.

Shapes: B images, C channels of a tower, G the grid's side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

SIDE = 1024
"""Pixels of a picture's side, whatever a tower makes of them."""
GRID = 32
ROWS = GRID * GRID
HEAD_DIM = 64

Shapes = Mapping[str, Sequence[int]]
"""Shapes of a tower's tensors, by their names within the tower."""


class Tower(nn.Module, ABC):
    """``[B, 3, SIDE, SIDE]`` (normalised as CLIP's, float32) → ``[B, ROWS, width]``."""

    name: ClassVar[str]
    """As ``mm_vision_tower`` says it."""
    kind: ClassVar[str]
    """As ``tower_configs.json`` says it."""
    config: Any
    width: int
    """Channels that the tower gives."""
    peak: int
    """Elements of the largest tensor that one image makes on the way."""

    @classmethod
    @abstractmethod
    def configured(cls, **sizes: Any) -> PreTrainedConfig:
        """The tower's configuration; sizes that are not given are the published ones."""

    @classmethod
    @abstractmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """What ``configured`` takes, read off the shapes of a checkpoint. Raises KeyError.

        ``heads`` is for the towers whose shapes do not tell it; None: as ``head_count`` says.
        """

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """The name here of a tensor of the original tower; None if it is not used."""
        return name

    @abstractmethod
    def flops(self) -> int:
        """Matrix products and convolutions over one image (resizes are not counted)."""


def head_count(width: int) -> int:
    """Attention heads of a tower, which no shape tells: of 64 channels each, at least two.

    All published towers have heads of 64. A checkpoint for which this does not hold says so in
    ``tower_configs.json``.
    """
    return max(2, width // HEAD_DIM)


def depth(shapes: Shapes, prefix: str) -> int:
    """Number of layers called ``prefix.0``, ``prefix.1``, …"""
    start = f"{prefix}."
    numbers = {name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)}
    return len(numbers)


def as_rows(features: Tensor) -> Tensor:
    """``[B, C, g, g]`` → ``[B, ROWS, C]``, resized in float32 where g is not GRID."""
    if features.shape[-1] != GRID:
        features = resize(features, GRID).to(features.dtype)
    return features.flatten(2).transpose(1, 2)


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, corner to corner, in float32."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=True)
