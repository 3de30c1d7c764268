"""EAGLE X4/X5 for the core: a picture is always 1024 rows, whatever towers look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyvte.exits.gate import GateBank
from dyvte.models.adapter import processed
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.families.eagle.model import EagleForCausalLM
from dyvte.models.families.eagle.tower import ROWS, SIDE


class EagleAdapter(DecoderAdapter):
    """Names the parts of an ``EagleForCausalLM`` loaded with our attention."""

    family = "eagle"
    decoders = ("llama",)

    def __init__(self, model: EagleForCausalLM, gates: GateBank | None = None) -> None:
        super().__init__(model, model.model, model.lm_head, gates)

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """The same number for every image."""
        return [ROWS] * len(processed(images, "pixel_values", 3, SIDE, SIDE))

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """All prompts' images through the towers together, as far as memory allows."""
        pixels = [processed(each, "pixel_values", 3, SIDE, SIDE) for each in images]
        if not pixels:
            return []
        stacked = torch.cat([each.to(self.device, torch.float32) for each in pixels])
        rows = self.model.image_rows(stacked)
        return [list(few) for few in rows.split([len(each) for each in pixels])]

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Every tower that the checkpoint has, and the projector."""
        flops: int = self.model.image_flops()
        return len(images["pixel_values"]) * flops
