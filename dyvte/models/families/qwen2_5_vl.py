"""Qwen2.5-VL: Qwen2-VL with window attention and a gated MLP in the tower.

Source of the layout: ``transformers.Qwen2_5_VLForConditionalGeneration``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen2_5_VLForConditionalGeneration

from dyvte.models.families.qwen2_vl import GridAdapter, patch_inputs
from dyvte.models.vision.grid_tower import GridTower


class Qwen25VLAdapter(GridAdapter):
    """Names the parts of a ``Qwen2_5_VLForConditionalGeneration`` loaded with our attention."""

    family = "qwen2_5_vl"
    native: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    decoders = ("qwen2_5_vl_text",)

    def tower(self, vision: Any) -> GridTower:
        """A few blocks attend to whole frames, the others to windows of whole merged rows."""
        unit = vision.spatial_merge_size * vision.patch_size
        return GridTower(
            num_blocks=vision.depth,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            mlp_matrices=3,
            patch_inputs=patch_inputs(vision),
            merge=vision.spatial_merge_size,
            out_size=vision.out_hidden_size,
            full_blocks=len({*vision.fullatt_block_indexes} & {*range(vision.depth)}),
            window=vision.window_size // unit * vision.spatial_merge_size,
        )
