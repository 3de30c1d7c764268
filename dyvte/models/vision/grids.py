"""Images of any size as grids of patches: reading them, their rows, their three positions.

A grid is frames × height × width in patches (``image_grid_thw``); ``merge × merge`` patches
become one row of the decoder. Positions are M-RoPE's (arXiv 2409.12191, section 2.1): text counts
alike on the temporal, height and width axis, an image's rows lie on its grid, and the text behind
it goes on after the grid's longest side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyvte.errors import PromptError
from dyvte.models.adapter import as_tensor
from dyvte.prompt import VisualSpan

AXES = 3


class Grid(NamedTuple):
    """One image's patches."""

    frames: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        """Rows of ``pixel_values``."""
        return self.frames * self.height * self.width

    def positions(self, merge: int) -> Tensor:
        """``[3, rows]`` (int64), from 0 on every axis."""
        sides = self.frames, self.height // merge, self.width // merge
        axes = torch.meshgrid(*map(torch.arange, sides), indexing="ij")
        return torch.stack(axes).flatten(1)

    def extent(self, merge: int) -> int:
        """Positions that the text behind the image skips."""
        return max(self.height, self.width) // merge


def read_grids(images: Mapping[str, Any], patch_inputs: int, merge: int) -> list[Grid]:
    """The grids of ``images``, checked against ``pixel_values [patches, patch_inputs]``.

    Raises PromptError.
    """
    videos = sorted(key for key in images if "video" in key)
    if videos:
        raise PromptError(f"videos are not supported, yet images hold {', '.join(videos)}")
    pixels = as_tensor(images, "pixel_values")
    if pixels.ndim != 2 or pixels.shape[1] != patch_inputs:
        raise PromptError(
            f"pixel_values has shape {list(pixels.shape)}, expected [patches, {patch_inputs}]"
        )
    found = as_tensor(images, "image_grid_thw")
    if found.ndim != 2 or found.shape[1] != AXES or found.is_floating_point():
        raise PromptError(
            f"image_grid_thw has shape {list(found.shape)} ({found.dtype}), expected integers "
            "[images, 3]: frames, height and width in patches"
        )
    grids = [Grid(*each) for each in found.tolist()]
    for index, grid in enumerate(grids):
        if min(grid) < 1 or grid.height % merge or grid.width % merge:
            raise PromptError(
                f"image_grid_thw[{index}] is {list(grid)}, expected at least one frame and a "
                f"height and width that are positive multiples of {merge}"
            )
    patches = sum(grid.patches for grid in grids)
    if patches != len(pixels):
        raise PromptError(
            f"image_grid_thw adds up to {patches} patches, pixel_values has {len(pixels)}"
        )
    return grids


def mrope_positions(
    rows: int, spans: Sequence[VisualSpan], grids: Sequence[Grid], merge: int
) -> Tensor:
    """``[3, rows]`` (int64) of an expanded prompt whose ``spans`` hold one image each."""
    pieces: list[Tensor] = []
    row = place = 0
    for span, grid in zip(spans, grids, strict=True):
        pieces.append(_text(place, span.start - row))
        place += span.start - row
        pieces.append(place + grid.positions(merge))
        place += grid.extent(merge)
        row = span.stop
    return torch.cat([*pieces, _text(place, rows - row)], dim=1)


def _text(start: int, rows: int) -> Tensor:
    return torch.arange(start, start + rows).expand(AXES, -1)
