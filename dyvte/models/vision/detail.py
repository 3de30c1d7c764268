"""What ``detail: "low"`` asks of a family's image processor: the fewest rows for an image.

A family that cuts pictures into tiles shows the view of the whole alone, one with a budget of
pixels gets a smaller budget. Where all pictures have one size there is nothing to say. Pictures of
one prompt may differ in detail: each is then processed by itself and ``joined`` to the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LOW_PIXELS = 512 * 512
"""Of a picture of low detail in its own shape, as OpenAI has it."""
NUM_TILES = "num_tiles"
ANYRES = 5  # axes of pixels in tiles of any resolution: images, tiles, C, H, W


@dataclass(frozen=True, slots=True)
class LowDetail:
    """How a family's image processor sees a picture of low detail.

    ``settings(processor)`` are its arguments, before the family's own. ``base_only`` keeps of the
    tiles that it makes the first, which shows the whole. ``as_one_of_several``: on a square, as
    the family sees each of several pictures, low or not.
    """

    settings: Callable[[Any], Mapping[str, Any]]
    base_only: bool = False
    as_one_of_several: bool = False

    def kept(self, images: Mapping[str, Any]) -> Mapping[str, Any]:
        """The processor's ``images`` without the tiles that low detail leaves out."""
        if not self.base_only:
            return images
        return {**images, "pixel_values": images["pixel_values"][:, :1]}


def one_tile(_: Any) -> Mapping[str, Any]:
    """InternVL: the thumbnail alone."""
    return {"crop_to_patches": False}


def smallest_canvas(processor: Any) -> Mapping[str, Any]:
    """LLaVA-NeXT, OneVision: the least work that still makes the view of the whole."""
    return {"image_grid_pinpoints": [min(processor.image_grid_pinpoints, key=math.prod)]}


def fewer_pixels(processor: Any) -> Mapping[str, Any]:
    """Qwen-VL: as many as 512 × 512 are, at most a quarter of the folder's own budget."""
    size = processor.size
    least, most = (size.get(edge) or 0 for edge in ("shortest_edge", "longest_edge"))
    low = max(least, min(LOW_PIXELS, most // 4))
    return {"size": {"shortest_edge": least, "longest_edge": low}}


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Processed pictures as if they had been processed together.

    Tiles of any resolution are counted by ``num_tiles [images]`` and filled up with zeros.
    """
    pixels = [part["pixel_values"] for part in parts]
    others = [name for name in parts[0] if name != "pixel_values"]
    found = {name: torch.cat([part[name] for part in parts]) for name in others}
    if pixels[0].ndim == ANYRES:
        counts = [each.shape[1] for each in pixels]
        pixels = [_filled(each, max(counts)) for each in pixels]
        found[NUM_TILES] = torch.tensor(counts)
    return {"pixel_values": torch.cat(pixels), **found}


def _filled(pixels: Tensor, tiles: int) -> Tensor:
    return F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, tiles - pixels.shape[1]))
