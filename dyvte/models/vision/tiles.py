"""InternVL's way from pictures to square tiles: a grid of tiles by aspect ratio, and a thumbnail.

Source: InternVL 1.5 (arXiv 2404.16821, section 3.1) and the code published with it. Which grid
wins among equals depends on the order in which grids are tried, so that order is part of the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dyvte.models.vision.images import on_square, readable

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0..1."""


def grids(fewest: int, most: int) -> list[tuple[int, int]]:
    """Every (columns, rows) of ``fewest..most`` tiles, in the order in which they are tried.

    By number of tiles; those of one number lie as a set of them iterates that was filled by
    longest side, which is what the published code does.
    """
    found = {
        (columns, rows)
        for side in range(fewest, most + 1)
        for columns in range(1, side + 1)
        for rows in range(1, side + 1)
        if fewest <= columns * rows <= most
    }
    return sorted(found, key=lambda grid: grid[0] * grid[1])


def closest_grid(width: int, height: int, tile: int, fewest: int, most: int) -> tuple[int, int]:
    """(columns, rows) whose aspect ratio is closest to a picture's.

    Among equals a later one wins if the picture has more than half of its pixels.
    """
    best, nearest = (1, 1), float("inf")
    for columns, rows in grids(fewest, most):
        distance = abs(width / height - columns / rows)
        large = width * height > 0.5 * tile * tile * columns * rows
        if distance < nearest or (distance == nearest and large):
            best, nearest = (columns, rows), distance
    return best


@dataclass(frozen=True, slots=True)
class TileProcessor:
    """Pictures as tiles of ``side`` × ``side``; ``dynamic`` False makes one tile of each.

    ``pad`` lays a picture on a square of the mean colour first (``pad2square``).
    """

    side: int
    dynamic: bool = True
    fewest: int = 1
    most: int = 6
    thumbnail: bool = True
    pad: bool = False

    def __call__(
        self, images: Sequence[Image.Image], details: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """``pixel_values [tiles, 3, side, side]`` (float32) and ``num_tiles [images]``.

        A picture of low detail is one tile, as all are that are not ``dynamic``.

        Raises PromptError for a picture of an extreme shape.
        """
        whole = [not self.dynamic or detail == "low" for detail in details or [""] * len(images)]
        pairs = zip(images, whole, strict=True)
        tiles = [list(self._tiles(readable(image), one)) for image, one in pairs]
        pixels = [_pixels(tile) for each in tiles for tile in each]
        none = torch.empty(0, 3, self.side, self.side)
        return {
            "pixel_values": torch.stack(pixels) if pixels else none,
            "num_tiles": torch.tensor([len(each) for each in tiles], dtype=torch.int64),
        }

    def _tiles(self, image: Image.Image, whole: bool) -> Iterator[Image.Image]:
        if self.pad:
            image = on_square(image, tuple(int(255 * mean) for mean in MEAN))
        if whole:
            yield self._resized(image, 1, 1)
            return
        columns, rows = closest_grid(*image.size, self.side, self.fewest, self.most)
        large = self._resized(image, columns, rows)
        for row in range(rows):
            for column in range(columns):
                left, top = column * self.side, row * self.side
                yield large.crop((left, top, left + self.side, top + self.side))
        if self.thumbnail and columns * rows > 1:
            yield self._resized(image, 1, 1)

    def _resized(self, image: Image.Image, columns: int, rows: int) -> Image.Image:
        return image.resize((columns * self.side, rows * self.side), Image.Resampling.BICUBIC)


def _pixels(tile: Image.Image) -> Tensor:
    """``[3, side, side]`` in units of ImageNet's deviations from its mean."""
    data = torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8)
    scaled = data.view(tile.height, tile.width, 3).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (scaled - mean[:, None, None]) / std[:, None, None]
