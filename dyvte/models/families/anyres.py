"""Any-resolution tiling, which LLaVA-NeXT and LLaVA-OneVision share.

An image is resized onto a canvas of the tower's squares; the tiles and a thumbnail of the whole
run through the tower. The tiles' rows are joined into one grid, the padding is cut off, and a
learned vector ends each line of the grid. An image of low detail is its thumbnail alone.

Shapes: n images, m the most tiles that one of them has (the others are padded with zeros), t tiles
of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from dyvte.errors import ModelError, PromptError
from dyvte.exits.gate import GateBank
from dyvte.models.adapter import check_finite, counted, processed
from dyvte.models.decoder import NativeAdapter
from dyvte.models.vision.detail import NUM_TILES
from dyvte.models.vision.towers import check_tower, patches_of, pooling_head, vision_shape
from dyvte.transfer import moved

Size = tuple[int, int]
"""Height and width of an image as it came."""


class AnyresAdapter(NativeAdapter):
    """``images``: ``pixel_values [n, m, C, H, W]`` and ``image_sizes [n, 2]``.

    ``num_tiles [n]``, where they hold it, is 1 for an image that is its thumbnail alone, else what
    its size says.
    """

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
        """Tiles of each image by its size, its thumbnail included."""
        del images
        return [self._tiles(size) for size in sizes]

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
        for each in images:
            pixels, known, counts = self._checked(each)
            tiles += [image[:count] for image, count in zip(pixels, counts, strict=True)]
            sizes.append(known)
        if not tiles:
            return [[] for _ in images]
        seen = self._see(moved(torch.cat(tiles), self.device, self.dtype))
        features = iter(seen.split([len(each) for each in tiles]))
        newline = self.model.model.image_newline
        return [[self.pack(next(features), size, newline) for size in known] for known in sizes]

    def _see(self, tiles: Tensor) -> Tensor:
        """Tower and projector: ``[t, C, H, W]`` → ``[t, patches, d]``.

        The class's ``get_image_features`` does no more before it packs, but reads an image's
        tiles from its size, so that none could be its thumbnail alone.
        """
        parts, chosen = self.model.model, self.config.vision_feature_layer
        states = parts.vision_tower(tiles, output_hidden_states=chosen).hidden_states
        levels = [chosen] if isinstance(chosen, int) else chosen
        features = torch.cat([states[level] for level in levels], dim=-1)
        if self.config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        out: Tensor = parts.multi_modal_projector(features)
        return out

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Image by image, each with the tiles that it has in its prompt."""
        pixels, sizes, counts = self._checked(images)
        return [
            {
                "pixel_values": tiles[None, :count],
                "image_sizes": torch.tensor([size]),
                NUM_TILES: [count],
            }
            for tiles, size, count in zip(pixels, sizes, counts, strict=True)
        ]

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

    def _counts(self, images: Mapping[str, Any], sizes: Sequence[Size]) -> list[int]:
        """Tiles of each image. Raises PromptError."""
        by_size = self.tile_counts(images, sizes)
        if images.get(NUM_TILES) is None:
            return by_size
        given = counted(images, NUM_TILES)
        fit = len(given) == len(by_size)
        if not fit or any(n not in (1, own) for n, own in zip(given, by_size, strict=True)):
            raise PromptError(
                f"{NUM_TILES} {given} do not fit images whose sizes make {by_size} tiles: each "
                "has all of them or 1"
            )
        return given

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
        counts = self._counts(images, sizes)
        if counts and max(counts) > pixels.shape[1]:
            raise PromptError(
                f"pixel_values has shape {list(pixels.shape)}, expected {max(counts)} tiles or "
                f"more for an image of {sizes[counts.index(max(counts))]}"
            )
        return pixels, sizes, counts
