"""Teaching visual rows where their object is exactly, and what the ground is like.

Names of thirds do not tell which of two objects is further left; coordinates that can be read
off the visual rows do. Rows of the ground learn its colour and tone, where these have names.
Legend: B pictures, V visual rows, W decoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyvte.demo.palette import COLORS
from dyvte.demo.render import GRID, PRINT_ID
from dyvte.demo.sight import Figures
from dyvte.demo.world import Scene

TONES = ("light", "dark")
UNNAMED = -100


def ground_of(scene: Scene) -> tuple[int, int]:
    """Indices of the ground's colour and tone, or UNNAMED."""
    ground = scene.background
    color = UNNAMED if ground.color is None else COLORS.index(ground.color)
    return color, UNNAMED if ground.tone is None else TONES.index(ground.tone)


class Places(nn.Module):
    """Linear readings of the projected visual rows."""

    centers: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, 3)
        self.color = nn.Linear(width, len(COLORS))
        self.tone = nn.Linear(width, len(TONES))
        row, column = torch.arange(GRID * GRID).div(GRID, rounding_mode="floor"), torch.arange(GRID)
        x, y = (column.repeat(GRID) + 0.5) / GRID, (row + 0.5) / GRID
        self.register_buffer("centers", torch.stack([x, y, 0 * x], -1), persistent=False)

    def forward(self, rows_BVW: Tensor, figures: Figures, ground_B2: Tensor) -> Tensor:
        """Loss of place and extent on objects, of colour and tone on the ground."""
        rows = F.rms_norm(rows_BVW, rows_BVW.shape[-1:])
        on_thing = (figures.owners > 0) & (figures.owners < PRINT_ID)
        wanted = figures.frames + self.centers
        loss = 4 * (self.place(rows) - wanted)[on_thing].abs().mean() if on_thing.any() else 0
        bare = figures.owners == 0
        named = ground_B2[:, None].expand(-1, rows.shape[1], -1)[bare]
        for head, target in ((self.color, named[:, 0]), (self.tone, named[:, 1])):
            if (target >= 0).any():
                loss = loss + 0.3 * F.cross_entropy(head(rows[bare]), target)
        return torch.as_tensor(loss)
