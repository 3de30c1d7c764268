"""Qwen2-VL over ``transformers``' own modules, and what the later Qwen-VL families share with it.

An image is a grid of patches of its own size; every ``merge × merge`` of them become a row, and
rows have three positions (M-RoPE). Source of the layout:
``transformers.Qwen2VLForConditionalGeneration``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.models.adapter import PromptLayout, as_tensor
from dyvte.models.decoder import NativeAdapter
from dyvte.models.vision.detail import LowDetail, fewer_pixels
from dyvte.models.vision.grid_tower import GridTower
from dyvte.models.vision.grids import Grid, mrope_positions, read_grids
from dyvte.transfer import moved, upload


class GridAdapter(NativeAdapter):
    """A Qwen-VL: ``tower`` says what its vision config means, the rest is shared."""

    low_detail = LowDetail(fewer_pixels)

    def __init__(self, model: Any, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        self._tower = self.tower(model.config.vision_config)
        if self._tower.out_size != self.decoder.hidden_size:
            raise ModelError(
                f"the vision tower gives rows of {self._tower.out_size}, "
                f"the decoder takes {self.decoder.hidden_size}"
            )

    def tower(self, vision: Any) -> GridTower:
        """The tower's shape by its config."""
        raise NotImplementedError

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """Frames · height · width / merge² of each image's grid."""
        return [grid.patches // self._tower.merge**2 for grid in self._grids(images)]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of the tower over all images; a frame attends to its own patches only."""
        grids = [self._grids(each) for each in images]
        found = [grid for each in grids for grid in each]
        if not found:
            return [[] for _ in images]
        pixels = torch.cat([as_tensor(each, "pixel_values") for each in images])
        rows = iter(
            self._features(
                moved(pixels, self.device, self.dtype),
                upload(found, torch.int64, self.device),
            )
        )
        return [list(islice(rows, len(each))) for each in grids]

    def _features(self, pixels: Tensor, grid_thw: Tensor) -> Sequence[Tensor]:
        """Rows ``[V_i, …]`` of each image, as ``encode_images`` returns them."""
        features: Sequence[Tensor] = self.model.get_image_features(pixels, grid_thw).pooler_output
        return features

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """One by one: a frame attends to its own patches only."""
        grids = self._grids(images)
        pixels = as_tensor(images, "pixel_values").split([grid.patches for grid in grids])
        return [
            {"pixel_values": own, "image_grid_thw": torch.tensor([grid])}
            for own, grid in zip(pixels, grids, strict=True)
        ]

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Of the images' own grids."""
        return self._tower.flops(self._grids(images))

    def place(self, layout: PromptLayout, images: Mapping[str, Any]) -> PromptLayout:
        """Three axes, for text alone as well, so that prompts of both kinds share a batch."""
        grids = self._grids(images) if images else []
        positions = mrope_positions(layout.rows, layout.spans, grids, self._tower.merge)
        delta = int(positions.max()) + 1 - layout.rows
        return replace(layout, positions=positions, delta=delta)

    def _grids(self, images: Mapping[str, Any]) -> list[Grid]:
        return read_grids(images, self._tower.patch_inputs, self._tower.merge)


def patch_inputs(vision: Any) -> int:
    """Numbers in a patch: the processor repeats a still picture over its frames."""
    return int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)


class Qwen2VLAdapter(GridAdapter):
    """Names the parts of a ``Qwen2VLForConditionalGeneration`` loaded with our attention."""

    family = "qwen2_vl"
    native: ClassVar[Any] = Qwen2VLForConditionalGeneration
    decoders = ("qwen2_vl_text",)

    def tower(self, vision: Any) -> GridTower:
        """Every block attends to whole frames; ``hidden_size`` is the decoder's."""
        return GridTower(
            num_blocks=vision.depth,
            hidden_size=vision.embed_dim,
            intermediate_size=int(vision.embed_dim * vision.mlp_ratio),
            mlp_matrices=2,
            patch_inputs=patch_inputs(vision),
            merge=vision.spatial_merge_size,
            out_size=vision.hidden_size,
            full_blocks=vision.depth,
        )
