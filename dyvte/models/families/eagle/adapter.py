"""EAGLE X4/X5 for the core: a picture is always 1024 rows, whatever towers look at it."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvte.exits.gate import GateBank
from dyvte.models.families.eagle.model import EagleForCausalLM
from dyvte.models.families.eagle.tower import ROWS, SIDE
from dyvte.models.families.fixed_rows import FixedRowsAdapter


class EagleAdapter(FixedRowsAdapter):
    """Names the parts of an ``EagleForCausalLM`` loaded with our attention."""

    family = "eagle"
    decoders = ("llama",)
    rows_per_image = ROWS
    image_shape = (3, SIDE, SIDE)
    pixel_dtype = torch.float32  # towers resize, and round only then

    def __init__(self, model: EagleForCausalLM, gates: GateBank | None = None) -> None:
        super().__init__(model, model.model, model.lm_head, gates)
        self.flops_per_image = model.image_flops()

    def see(self, pixels: Tensor) -> Tensor:
        """Every tower that the checkpoint has; as many pictures at once as memory allows."""
        rows: Tensor = self.model.image_rows(pixels)
        return rows
