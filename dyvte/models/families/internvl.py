"""InternVL (2.5, 3, 3.5): tiles of one size and a thumbnail, four patches to a row.

The image processor cuts an image into tiles; each runs through the tower, pixel shuffle joins
neighbouring patches, and the rows of all tiles follow each other. Source of the layout:
``transformers.InternVLForConditionalGeneration``.

Shapes: t tiles of all of a prompt's images, n images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from dyvte.errors import ModelError, PromptError
from dyvte.exits.gate import GateBank
from dyvte.flops import VisionShape
from dyvte.models.adapter import counted, processed
from dyvte.models.decoder import NativeAdapter
from dyvte.models.vision.detail import NUM_TILES, LowDetail, one_tile
from dyvte.transfer import moved

TILE_COUNTS = (NUM_TILES, "num_patches")
"""Tiles of each image: as original readers and as ``transformers``' image processor call it."""


class InternVLAdapter(NativeAdapter):
    """Names the parts of an ``InternVLForConditionalGeneration`` loaded with our attention.

    ``images``: ``pixel_values [t, C, H, W]`` and ``num_patches [n]`` (or ``num_tiles``), the tiles
    of each image; without it every tile is an image.
    """

    family = "internvl"
    native = InternVLForConditionalGeneration
    image_frame = ("<img>", "</img>")
    image_settings: ClassVar[Mapping[str, Any]] = {"crop_to_patches": True}
    low_detail = LowDetail(one_tile)

    def __init__(self, model: Any, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        self._check(model.config)
        self._vision = _shape(model.config)
        vision = model.config.vision_config
        self._tile_shape = (vision.num_channels, *vision.image_size)
        self.rows_per_tile = int(self._vision.projector_rows or 0)

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """As many for every tile."""
        return [count * self.rows_per_tile for count in self._counts(images, self._tiles(images))]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the tiles of all prompts."""
        tiles = [self._tiles(each) for each in images]
        counts = [self._counts(each, own) for each, own in zip(images, tiles, strict=True)]
        if not any(counts):
            return [[] for _ in images]
        stacked = moved(torch.cat(tiles), self.device, self.dtype)
        features = self.model.get_image_features(pixel_values=stacked).pooler_output
        by_image = iter(features.split([count for own in counts for count in own]))
        return [[next(by_image).flatten(0, 1) for _ in own] for own in counts]

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Tile by tile."""
        return [{"pixel_values": each[None]} for each in self._tiles(images)]

    def join_images(self, images: Mapping[str, Any], rows: Sequence[list[Tensor]]) -> list[Tensor]:
        """The rows of an image's tiles follow each other."""
        tiles = iter(super().join_images(images, rows))
        counts = self._counts(images, self._tiles(images))
        return [torch.cat([next(tiles) for _ in range(count)]) for count in counts]

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Every tile and thumbnail runs through the whole tower and the projector."""
        return self._vision.total(len(self._tiles(images)))

    def _tiles(self, images: Mapping[str, Any]) -> Tensor:
        return processed(images, "pixel_values", *self._tile_shape)

    def _counts(self, images: Mapping[str, Any], tiles: Tensor) -> list[int]:
        """Tiles of each image. Raises PromptError."""
        given = (name for name in TILE_COUNTS if images.get(name) is not None)
        key = next(given, None)
        if key is None:
            return [1] * len(tiles)
        counts = counted(images, key)
        if sum(counts) != len(tiles):
            raise PromptError(
                f"{key} {counts} do not count the tiles of pixel_values, whose shape is "
                f"{list(tiles.shape)}"
            )
        return counts

    def _check(self, config: Any) -> None:
        """Refuse what the class would get wrong or fail at. Raises ModelError.

        The config knows one kind of tower only; another's weights would be missing.
        """
        vision = config.vision_config
        if config.vision_feature_select_strategy != "default":
            raise ModelError(
                f"{self.family}: vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported (default is)"
            )
        if not isinstance(config.vision_feature_layer, int):
            raise ModelError(
                f"{self.family}: vision_feature_layer {config.vision_feature_layer} is not "
                "supported (a single layer is)"
            )
        sides = {size // patch for size, patch in _sides(vision)}
        if len(sides) != 1 or (max(sides) * config.downsample_ratio) % 1:
            raise ModelError(
                f"{self.family}: tiles of {list(vision.image_size)} pixels give no square of "
                f"patches that downsample_ratio {config.downsample_ratio} divides"
            )


def _sides(vision: Any) -> list[tuple[int, int]]:
    return list(zip(vision.image_size, vision.patch_size, strict=True))


def _shape(config: Any) -> VisionShape:
    """Of one tile. Pixel shuffle moves values and costs nothing."""
    text, vision = config.text_config, config.vision_config
    (height, tall), (width, wide) = _sides(vision)
    patches = (height // tall) * (width // wide)
    joined = int(1 / config.downsample_ratio) ** 2
    return VisionShape(
        num_layers=vision.num_hidden_layers,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        patches=patches,
        rows=patches + 1,
        patch_inputs=vision.num_channels * tall * wide,
        projector_in=vision.hidden_size * joined,
        projector_hidden=text.hidden_size,
        projector_out=text.hidden_size,
        projector_rows=patches // joined,
    )
