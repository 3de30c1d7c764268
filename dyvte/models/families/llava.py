"""LLaVA over ``transformers``' own modules: tower, two-layer projector, decoder.

The tower is CLIP or, in InternVL-Chat 1.0, InternViT.
One image is one placeholder and always the same number of rows. Source of the layout:
``transformers.LlavaForConditionalGeneration``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from transformers import LlavaForConditionalGeneration

from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.models.decoder import NativeAdapter
from dyvte.models.families.fixed_rows import FixedRowsAdapter
from dyvte.models.vision.towers import patches_of, side_of, vision_shape

TOWERS = ("clip_vision_model", "internvl_vision")


class LlavaAdapter(FixedRowsAdapter, NativeAdapter):
    """Names the parts of a ``LlavaForConditionalGeneration`` loaded with our attention."""

    family = "llava"
    native = LlavaForConditionalGeneration

    def __init__(self, model: LlavaForConditionalGeneration, gates: GateBank | None = None) -> None:
        super().__init__(model, gates)
        vision = model.config.vision_config
        if vision.model_type not in TOWERS:  # others have no class token to drop
            raise ModelError(
                f"{self.family}: vision tower {vision.model_type!r} is not supported "
                f"({', '.join(TOWERS)})"
            )
        side = side_of(vision.image_size)
        drops_cls = model.config.vision_feature_select_strategy == "default"
        self.rows_per_image = patches_of(vision) + (0 if drops_cls else 1)
        self.image_shape = (vision.num_channels, side, side)
        self.flops_per_image = vision_shape(model.config, self.rows_per_image).total(1)

    def see(self, pixels: Tensor) -> Iterable[Tensor]:
        """The class's own features."""
        features: Iterable[Tensor] = self.model.get_image_features(
            pixel_values=pixels
        ).pooler_output
        return features
