"""LLaVA-NeXT (1.6): LLaVA with any-resolution tiles, every image of a prompt tiled.

Source of the layout: ``transformers.LlavaNextForConditionalGeneration``.
"""

from __future__ import annotations

from torch import Tensor
from transformers import LlavaNextForConditionalGeneration

from dyvte.models.families.anyres import AnyresAdapter, Size
from dyvte.models.vision.detail import LowDetail, smallest_canvas


class LlavaNextAdapter(AnyresAdapter):
    """Names the parts of a ``LlavaNextForConditionalGeneration`` loaded with our attention."""

    family = "llava_next"
    native = LlavaNextForConditionalGeneration
    low_detail = LowDetail(smallest_canvas, base_only=True)

    def pack(self, features: Tensor, size: Size, newline: Tensor) -> Tensor:
        """Unpadded, with line ends."""
        strategy = self.config.vision_feature_select_strategy
        [rows], _ = self.model.model.pack_image_features([features], [size], strategy, newline)
        out: Tensor = rows
        return out
