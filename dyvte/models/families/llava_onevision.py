"""LLaVA-OneVision: any-resolution tiles for a single image, one square for each of several.

A grid that grew beyond ``vision_aspect_ratio`` ("anyres_max_9": nine tiles' rows) is shrunk to
about that many. Source of the layout: ``transformers.LlavaOnevisionForConditionalGeneration``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from dyvte.errors import ModelError, PromptError
from dyvte.exits.gate import GateBank
from dyvte.models.adapter import counted
from dyvte.models.families.anyres import AnyresAdapter, Size
from dyvte.models.vision.detail import LowDetail, smallest_canvas


class LlavaOnevisionAdapter(AnyresAdapter):
    """Names the parts of a ``LlavaOnevisionForConditionalGeneration`` with our attention.

    ``images`` may hold ``batch_num_images``: how many images each group of them has. A group of
    one is tiled; without it every image is.
    """

    family = "llava_onevision"
    native = LlavaOnevisionForConditionalGeneration
    low_detail = LowDetail(smallest_canvas, base_only=True, as_one_of_several=True)

    def __init__(self, model: Any, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        ratio = self.config.vision_aspect_ratio
        if not re.fullmatch(r"anyres_max_[1-9]\d*", ratio):
            raise ModelError(
                f"{self.family}: vision_aspect_ratio {ratio!r} is not supported (anyres_max_9 is)"
            )

    def tile_counts(self, images: Mapping[str, Any], sizes: Sequence[Size]) -> list[int]:
        """One for each of several images. Raises PromptError."""
        given = images.get("batch_num_images")
        groups = [1] * len(sizes) if given is None else counted(images, "batch_num_images")
        if sum(groups) != len(sizes):
            raise PromptError(f"batch_num_images {groups} do not count {len(sizes)} images")
        alone = [group == 1 for group in groups for _ in range(group)]
        return [self._tiles(size) if one else 1 for size, one in zip(sizes, alone, strict=True)]

    def pack(self, features: Tensor, size: Size, newline: Tensor) -> Tensor:
        """Unpadded, shrunk where it is too large, with line ends."""
        [rows], _ = self.model.model.pack_image_features(
            [features], [size], newline, self.config.vision_aspect_ratio
        )
        out: Tensor = rows
        return out
