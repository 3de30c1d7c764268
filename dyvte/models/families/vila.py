"""VILA-1.5 over ``transformers``' own parts: SigLIP tower, ``mlp_downsample`` projector, decoder.

The projector joins each 2 × 2 patches of the grid into one row (arXiv 2312.07533 and the code
published with VILA-1.5). In which order the cells follow one another changed in December 2024
under the same name; the same code then began to put a line break behind each image.

Shapes: I images, n patches a side, c tower width, d decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionModel

from dyvte.exits.gate import GateBank
from dyvte.flops import VisionShape
from dyvte.models.adapter import PromptLayout
from dyvte.models.families.fixed_rows import FixedRowsAdapter
from dyvte.prompt import IMAGE, Prompt

ROWS, COLUMNS = "rows", "columns"


class DownsampleProjector(nn.Module):
    """Tower rows ``[I, n², c]`` → ``[I, ceil(n/2)², d]``; an odd grid is filled with zeros.

    ``order`` says how cells follow one another: "rows", or "columns" (the grid transposed).
    """

    def __init__(self, width: int, hidden_size: int, order: str) -> None:
        super().__init__()
        self.columns_first = order == COLUMNS
        self.layers = nn.Sequential(
            nn.Identity(),  # the original counts the joining of cells as a layer
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Cells joined along their channels, row by row within a cell; then norm and MLP."""
        side = round(features.shape[1] ** 0.5)
        grid = features.unflatten(1, (side, side))
        grid = F.pad(grid, (0, 0, 0, side % 2, 0, side % 2))
        cells = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)
        if self.columns_first:
            cells = cells.transpose(1, 2)
        out: Tensor = self.layers(cells.flatten(3).flatten(1, 2))
        return out


class VilaModel(nn.Module):
    """The three parts as one module."""

    def __init__(self, vision: SiglipVisionModel, projector: DownsampleProjector, llm: Any) -> None:
        super().__init__()
        self.vision_tower = vision
        self.mm_projector = projector
        self.llm = llm
        self.config = llm.config
        self.generation_config = llm.generation_config

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's."""
        dtype: torch.dtype = self.llm.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The decoder's."""
        device: torch.device = self.llm.device
        return device


class VilaAdapter(FixedRowsAdapter):
    """``select_layer`` names the tower's hidden state; ``behind`` are ids put after each image."""

    family = "vila"

    def __init__(
        self,
        model: VilaModel,
        gates: GateBank | None = None,
        select_layer: int = -2,
        behind: Sequence[int] = (),
    ) -> None:
        super().__init__(model, model.llm.model, model.llm.lm_head, gates)
        self._select_layer = select_layer
        self._behind = tuple(behind)
        vision = model.vision_tower.config
        side = vision.image_size // vision.patch_size
        self.rows_per_image = ((side + 1) // 2) ** 2
        self.image_shape = (vision.num_channels, vision.image_size, vision.image_size)
        shape = VisionShape(
            num_layers=vision.num_hidden_layers,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            patches=side**2,
            rows=side**2,
            patch_inputs=vision.num_channels * vision.patch_size**2,
            projector_in=4 * vision.hidden_size,
            projector_hidden=self.decoder.hidden_size,
            projector_out=self.decoder.hidden_size,
            projector_rows=self.rows_per_image,
        )
        self.flops_per_image = shape.total(1)

    def layout(self, prompt: Prompt) -> PromptLayout:
        """As for every family, with the line break that newer code puts behind each image."""
        if self._behind:
            ids = [(i, *self._behind) if i == IMAGE else (i,) for i in prompt.token_ids]
            prompt = replace(prompt, token_ids=[i for each in ids for i in each])
        return super().layout(prompt)

    def see(self, pixels: Tensor) -> Tensor:
        """The selected hidden state, projected."""
        chosen = self._select_layer
        states = self.model.vision_tower(pixels, output_hidden_states=[chosen]).hidden_states
        rows: Tensor = self.model.mm_projector(states[chosen])
        return rows
