"""A picture of attention small enough to look at: text rows one by one, images in a few bins.

A prompt is nine tenths image, so that a picture true to scale shows an image and no text. Here
every text row has a cell of its own (up to a limit) and each image a fixed number of them; a cell
holds the strongest weight that falls into it, and NaN where rows had left. Built from the stream
of rows: the grid is all that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dyvte.analysis.rows import AttentionRows
from dyvte.models.adapter import PromptLayout

IMAGE_CELLS = 24
TEXT_CELLS = 48


@dataclass(frozen=True, slots=True)
class Part:
    """A run of cells: ``name`` is "text" or "image", cells ``start..stop-1``."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Cells:
    """``of_row [n]`` (int64): the cell of each row of the prompt; and the parts they make."""

    of_row: Tensor
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """Cells on each side of the grid."""
        return self.parts[-1].stop

    @classmethod
    def of(cls, layout: PromptLayout) -> Cells:
        """Lay out a prompt: text parts up to ``TEXT_CELLS`` cells, images ``IMAGE_CELLS``."""
        edges = {0, layout.rows} | {at for span in layout.spans for at in (span.start, span.stop)}
        images = {span.start for span in layout.spans}
        of_row, parts, at = [], [], 0
        for start, stop in pairwise(sorted(edges)):
            rows, image = stop - start, start in images
            cells = min(rows, IMAGE_CELLS if image else TEXT_CELLS)
            of_row += [at + row * cells // rows for row in range(rows)]
            parts.append(Part("image" if image else "text", at, at + cells))
            at += cells
        return cls(torch.tensor(of_row), tuple(parts))


class HeatMap:
    """A ``RowReader`` for some layers: one ``[cells, cells]`` grid each."""

    def __init__(self, cells: Cells, layers: Sequence[int]) -> None:
        self.cells = cells
        empty = torch.full((cells.count, cells.count), torch.nan)
        self.grids = {layer: empty.clone() for layer in layers}

    def take(self, rows: AttentionRows) -> None:
        """Raise each cell to the strongest weight of the block that falls into it."""
        grid = self.grids.get(rows.layer)
        if grid is None:
            return
        of_row, count = self.cells.of_row, self.cells.count
        weights, queries, keys = rows.weights.cpu(), rows.queries.cpu(), rows.keys.cpu()
        wide = torch.full((weights.shape[0], count), -1.0)
        wide.scatter_reduce_(1, of_row[keys].expand_as(weights), weights, "amax")
        block = torch.full((count, count), -1.0)
        block.scatter_reduce_(0, of_row[queries][:, None].expand_as(wide), wide, "amax")
        merged = torch.fmax(grid, torch.where(block < 0, torch.nan, block))
        self.grids[rows.layer] = merged
