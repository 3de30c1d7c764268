"""Qwen3-VL: Qwen2-VL with deepstack, interleaved M-RoPE and norms of queries and keys.

Deepstack (arXiv 2406.04334): besides its embedding, an image gives rows from some blocks of the
tower, which the decoder adds to the image's rows after its first layers. Norms and the order of
the rotary axes are the decoder's own modules. Source of the layout:
``transformers.Qwen3VLForConditionalGeneration``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from dyvte.attention import LayerContext
from dyvte.models.adapter import PromptLayout
from dyvte.models.families.qwen2_vl import GridAdapter, patch_inputs
from dyvte.models.vision.grid_tower import GridTower


class Qwen3VLAdapter(GridAdapter):
    """Names the parts of a ``Qwen3VLForConditionalGeneration`` loaded with our attention."""

    family = "qwen3_vl"
    native: ClassVar[Any] = Qwen3VLForConditionalGeneration
    decoders = ("qwen3_vl_text",)

    def tower(self, vision: Any) -> GridTower:
        """Every block attends to whole frames; each deepstack level has a merger of its own."""
        levels = {*vision.deepstack_visual_indexes} & {*range(vision.depth)}
        return GridTower(
            num_blocks=vision.depth,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            mlp_matrices=2,
            patch_inputs=patch_inputs(vision),
            merge=vision.spatial_merge_size,
            out_size=vision.out_hidden_size,
            full_blocks=vision.depth,
            mergers=1 + len(levels),
        )

    def _features(self, pixels: Tensor, grid_thw: Tensor) -> Sequence[Tensor]:
        """``[V_i, (1 + K)·d]``: the embedding, then the deepstack levels."""
        found = self.model.get_image_features(pixels, grid_thw)
        levels = (found.pooler_output, *found.deepstack_features)
        return [torch.cat(image, dim=1) for image in zip(*levels, strict=True)]

    def deepstack(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor | None:
        """What follows the embedding in each image's rows; text gets nothing."""
        width = self.decoder.hidden_size
        if not image_rows or image_rows[0].shape[1] == width:
            return None
        levels = image_rows[0].shape[1] // width - 1
        out = image_rows[0].new_zeros(layout.rows, levels, width)
        for span, rows in zip(layout.spans, image_rows, strict=True):
            out[span.start : span.stop] = rows[:, width:].unflatten(1, (levels, width))
        return out

    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """The decoder's own layer, and the level that follows it for the rows still there."""
        out = super().run_layer(layer, hidden, rotary, context)
        levels = context.deepstack
        if levels is None or layer >= levels.shape[1]:
            return out
        return out + levels[:, layer]
