"""FLOPs of a vision tower over grids of patches, and of the mergers behind it.

Conventions of ``dyvte.flops``: 2 FLOPs per multiply-add, attention as full rectangles of what
attends to each other; norms, rotary and position embeddings left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyvte.models.vision.grids import Grid


@dataclass(frozen=True, slots=True)
class GridTower:
    """The numbers of a tower that decide its cost.

    ``mlp_matrices`` is 2, or 3 where the MLP is gated. ``mergers`` run over the merged rows, each
    ``merge² · hidden_size → merge² · hidden_size → out_size``. A frame attends as a whole in
    ``full_blocks`` of the ``num_blocks``, in the others within windows of ``window`` patches a
    side.
    """

    num_blocks: int
    hidden_size: int
    intermediate_size: int
    mlp_matrices: int
    patch_inputs: int  # channels · frames in a patch · patch_size²
    merge: int
    out_size: int
    full_blocks: int
    window: int = 0
    mergers: int = 1

    def flops(self, grids: Sequence[Grid]) -> int:
        """Patch embedding, blocks and mergers for some images."""
        return sum(self._image(grid) for grid in grids)

    def _image(self, grid: Grid) -> int:
        d = self.hidden_size
        embed = 2 * grid.patches * self.patch_inputs * d
        weights = 4 * d * d + self.mlp_matrices * d * self.intermediate_size
        windowed = self.num_blocks - self.full_blocks
        pairs = self.full_blocks * (grid.height * grid.width) ** 2
        if windowed:
            pairs += windowed * self._within(grid.height) * self._within(grid.width)
        blocks = 2 * self.num_blocks * grid.patches * weights + 4 * grid.frames * pairs * d
        merged = self.merge**2 * d
        rows = grid.patches // self.merge**2
        return embed + blocks + self.mergers * 2 * rows * merged * (merged + self.out_size)

    def _within(self, side: int) -> int:
        """Pairs of a side's patches that share a window: the last window may be shorter."""
        whole, rest = divmod(side, self.window)
        return whole * self.window**2 + rest**2
