"""LLaVA over ``transformers``' own modules: tower, two-layer projector, decoder.

The tower is CLIP or, in InternVL-Chat 1.0, InternViT.
One image is one placeholder and always the same number of rows. Source of the layout:
``transformers.LlavaForConditionalGeneration``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.flops import VisionShape
from dyvte.models.adapter import processed
from dyvte.models.decoder import NativeAdapter

TOWERS = ("clip_vision_model", "internvl_vision")


class LlavaAdapter(NativeAdapter):
    """Names the parts of a ``LlavaForConditionalGeneration`` loaded with our attention."""

    family = "llava"
    native = LlavaForConditionalGeneration

    def __init__(self, model: LlavaForConditionalGeneration, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        text, vision = model.config.text_config, model.config.vision_config
        if vision.model_type not in TOWERS:  # others have no class token to drop
            raise ModelError(
                f"LLaVA with a {vision.model_type!r} vision tower is not supported "
                f"({', '.join(TOWERS)})"
            )
        side, patch = _side(vision.image_size), _side(vision.patch_size)
        patches = (side // patch) ** 2
        drops_cls = model.config.vision_feature_select_strategy == "default"
        self.rows_per_image = patches + (0 if drops_cls else 1)
        levels = model.config.vision_feature_layer
        self._vision = VisionShape(
            num_layers=vision.num_hidden_layers,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            patches=patches,
            rows=patches + 1,
            patch_inputs=vision.num_channels * patch**2,
            projector_in=vision.hidden_size * (1 if isinstance(levels, int) else len(levels)),
            projector_hidden=text.hidden_size,
            projector_out=text.hidden_size,
            projector_rows=self.rows_per_image,
        )
        self._image_shape = (vision.num_channels, side, side)

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """The same number for every image."""
        pixels = processed(images, "pixel_values", *self._image_shape)
        return [self.rows_per_image] * len(pixels)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the images of all prompts."""
        pixels = [processed(each, "pixel_values", *self._image_shape) for each in images]
        if not pixels:
            return []
        stacked = torch.cat([each.to(self.device, self.dtype) for each in pixels])
        features = self.model.get_image_features(pixel_values=stacked).pooler_output
        rows = iter(features)
        return [[next(rows) for _ in range(len(each))] for each in pixels]

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Every encoder layer that ``transformers`` runs is counted."""
        return self._vision.total(len(images["pixel_values"]))


def _side(size: int | Sequence[int]) -> int:
    """Of a square that a config gives as one number (CLIP) or as two (InternViT)."""
    return size if isinstance(size, int) else size[0]
