"""Any-resolution tiling, which LLaVA-NeXT and LLaVA-OneVision share.

An image is resized onto a canvas of the tower's squares; the tiles and a thumbnail of the whole
run through the tower. The tiles' rows are joined into one grid, the padding is cut off, and a
learned vector ends each line of the grid.

Shapes: n images, m the most tiles that one of them has (the others are padded with zeros).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from dyvte.errors import ModelError, PromptError
from dyvte.exits.gate import GateBank
from dyvte.models.adapter import check_finite, processed
from dyvte.models.decoder import NativeAdapter
from dyvte.models.vision.towers import check_tower, patches_of, pooling_head, vision_shape

Size = tuple[int, int]
"""Height and width of an image as it came."""


class AnyresAdapter(NativeAdapter):
    """``images``: ``pixel_values [n, m, C, H, W]`` and ``image_sizes [n, 2]``."""

    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model", "siglip_vision_model")

    def __init__(self, model: Any, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        self.config = model.config
        vision = self.config.vision_config
        check_tower(self.family, self.config, self.towers)
        self._side = vision.image_size
        self._patches = patches_of(vision)
        self._tile_shape = (vision.num_channels, self._side, self._side)
        self._canvases = [[int(h), int(w)] for h, w in self.config.image_grid_pinpoints]
        if any(side % self._side for canvas in self._canvases for side in canvas):
            raise ModelError(
                f"{self.family}: image_grid_pinpoints {self._canvases} are no multiples of the "
                f"vision tower's {self._side} pixels"
            )

    def tile_counts(self, images: Mapping[str, Any], sizes: Sequence[Size]) -> list[int]:
        """Tiles of each image, its thumbnail included."""
        del images
        return [self._tiles(size) for size in sizes]

    def grouping(self, images: Mapping[str, Any], count: int) -> dict[str, list[int]]:
        """What else the class's ``get_image_features`` must know of a prompt's images."""
        del images, count
        return {}

    def pack(self, features: Tensor, size: Size, newline: Tensor) -> Tensor:
        """The class's own packing of one image: ``[tiles, patches, d]`` → ``[V_i, d]``."""
        raise NotImplementedError

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """The length that the class's own packing gives to features without data."""
        _, sizes, counts = self._checked(images)
        return [self._rows(size, count) for size, count in zip(sizes, counts, strict=True)]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the tiles of all prompts, without their padding."""
        tiles: list[Tensor] = []
        sizes: list[list[Size]] = []
        grouping: dict[str, list[int]] = {}
        for each in images:
            pixels, known, counts = self._checked(each)
            tiles += [image[:count] for image, count in zip(pixels, counts, strict=True)]
            sizes.append(known)
            for key, group in self.grouping(each, len(known)).items():
                grouping.setdefault(key, []).extend(group)
        if not tiles:
            return [[] for _ in images]
        features = self.model.get_image_features(
            pixel_values=torch.cat([each.to(self.device, self.dtype) for each in tiles]),
            image_sizes=torch.tensor([size for known in sizes for size in known]),
            **grouping,
        ).pooler_output
        rows = iter(features)
        return [[next(rows) for _ in known] for known in sizes]

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Group by group; a group is one image, unless the family sees several as one thing."""
        pixels, sizes, _ = self._checked(images)
        groups = self.grouping(images, len(sizes))
        [(key, counts)] = groups.items() or [("", [1] * len(sizes))]
        ends = list(itertools.accumulate(counts))
        parts: list[Mapping[str, Any]] = []
        for count, end in zip(counts, ends, strict=True):
            own = slice(end - count, end)
            part = {"pixel_values": pixels[own], "image_sizes": torch.tensor(sizes[own])}
            parts.append(part | ({key: [count]} if key else {}))
        return parts

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Every tile and thumbnail runs through the whole tower and the projector."""
        _, _, counts = self._checked(images)
        shape = vision_shape(self.config, self._patches)
        return shape.total(sum(counts)) + sum(counts) * pooling_head(self.config)

    def _tiles(self, size: Size) -> int:
        return int(image_size_to_num_patches(size, self._canvases, self._side))

    def _rows(self, size: Size, tiles: int) -> int:
        nothing = torch.empty(tiles, self._patches, 1, device="meta")
        return len(self.pack(nothing, size, torch.empty(1, device="meta")))

    def _checked(self, images: Mapping[str, Any]) -> tuple[Tensor, list[Size], list[int]]:
        """Pixels, sizes and tile counts of a prompt. Raises PromptError."""
        pixels = processed(images, "pixel_values", -1, *self._tile_shape)
        check_finite(images, "image_sizes")
        given = processed(images, "image_sizes", 2).tolist()
        sizes = [(int(height), int(width)) for height, width in given]
        if len(sizes) != len(pixels) or any(side < 1 for size in sizes for side in size):
            raise PromptError(
                f"image_sizes {given} do not fit pixel_values of shape {list(pixels.shape)}: "
                "give the height and width of each image"
            )
        counts = self.tile_counts(images, sizes)
        if counts and max(counts) > pixels.shape[1]:
            raise PromptError(
                f"pixel_values has shape {list(pixels.shape)}, expected {max(counts)} tiles or "
                f"more for an image of {sizes[counts.index(max(counts))]}"
            )
        return pixels, sizes, counts
