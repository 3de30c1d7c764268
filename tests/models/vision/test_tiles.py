"""InternVL's tiles: which grid a picture gets, in what order, and when a thumbnail follows."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from dyvte import PromptError
from dyvte.models.vision.images import MAX_SQUARE, on_square
from dyvte.models.vision.tiles import MEAN, STD, TileProcessor, closest_grid, grids
from tests.models.families.family import picture

SIDE = 16


def test_grids_are_tried_by_their_number_of_tiles() -> None:
    found = grids(1, 6)
    assert sorted(found) == sorted((c, r) for c in range(1, 7) for r in range(1, 7) if c * r <= 6)
    assert [c * r for c, r in found] == sorted(c * r for c, r in found)
    assert set(grids(3, 4)) == {(1, 3), (3, 1), (2, 2), (1, 4), (4, 1)}


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [
        ((170, 80), 6, (2, 1)),
        ((60, 64), 6, (1, 1)),  # too few pixels for 2 × 2, which has the same ratio
        ((56, 168), 6, (1, 3)),
        ((1000, 100), 6, (6, 1)),
        ((1000, 100), 1, (1, 1)),
    ],
)
def test_the_grid_is_the_closest_in_aspect_ratio(
    size: tuple[int, int], most: int, grid: tuple[int, int]
) -> None:
    assert closest_grid(*size, 56, 1, most) == grid


def test_among_grids_of_one_ratio_a_large_picture_takes_the_larger() -> None:
    """More than half of the larger grid's pixels are needed; exactly half are not enough."""
    assert closest_grid(29, 29, 20, 1, 4) == (2, 2)  # 841 of 1600
    assert closest_grid(28, 28, 20, 1, 4) == (1, 1)  # 784 of 1600
    assert closest_grid(40, 20, 20, 1, 8) == (2, 1)  # 800 of 3200


def test_tiles_come_row_by_row_and_the_thumbnail_last() -> None:
    """A picture of 3 × 2 plain squares: each tile is one of them."""
    colours = [(10 * i, 255 - 20 * i, 30 * i) for i in range(6)]
    image = Image.new("RGB", (3 * SIDE, 2 * SIDE))
    for i, colour in enumerate(colours):
        left, top = i % 3 * SIDE, i // 3 * SIDE
        image.paste(colour, (left, top, left + SIDE, top + SIDE))
    out = TileProcessor(SIDE)([image])
    assert out["num_tiles"].tolist() == [7]
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    for tile, colour in zip(out["pixel_values"], colours, strict=False):
        seen = tile[:, SIDE // 2, SIDE // 2] * std + mean
        torch.testing.assert_close(seen, torch.tensor(colour) / 255)


@pytest.mark.parametrize(
    ("settings", "tiles"),
    [
        ({}, [3, 1]),
        ({"thumbnail": False}, [2, 1]),
        ({"dynamic": False}, [1, 1]),
        ({"most": 1}, [1, 1]),
        ({"pad": True}, [5, 1]),  # padded to a square of 2 × 2
    ],
)
def test_a_thumbnail_follows_more_than_one_tile(
    settings: dict[str, bool], tiles: list[int]
) -> None:
    images = [picture(64, 30), picture(15, 16).convert("RGBA")]
    out = TileProcessor(SIDE, **settings)(images)
    assert out["num_tiles"].tolist() == tiles
    assert out["pixel_values"].shape == (sum(tiles), 3, SIDE, SIDE)


def test_a_picture_of_low_detail_is_the_thumbnail_alone() -> None:
    wide, high = picture(64, 30, 1), picture(30, 64, 2)
    process = TileProcessor(SIDE, pad=True)
    full, mixed = process([wide, high]), process([wide, high], ["low", "auto"])
    assert full["num_tiles"].tolist() == [5, 5]
    assert mixed["num_tiles"].tolist() == [1, 5]
    torch.testing.assert_close(mixed["pixel_values"], full["pixel_values"][4:], atol=0, rtol=0)


def test_no_pictures_make_no_tiles() -> None:
    found = TileProcessor(SIDE)([])
    assert found["pixel_values"].shape == (0, 3, SIDE, SIDE)
    assert found["num_tiles"].tolist() == []


def test_a_picture_of_an_extreme_shape_is_refused_before_it_grows() -> None:
    """A few bytes of PNG, 1 × 100000, were laid on a square of 30 GB."""
    with pytest.raises(PromptError, match="at most 200"):
        TileProcessor(SIDE, pad=True)([Image.new("RGB", (1, 201))])
    found = TileProcessor(SIDE, pad=True, dynamic=False)([Image.new("RGB", (1, 200))])
    assert len(found["pixel_values"]) == 1
    assert on_square(Image.new("RGB", (100, 2 * MAX_SQUARE)), (0, 0, 0)).size == (MAX_SQUARE,) * 2


def test_alpha_and_deep_greys_are_read_as_over_http() -> None:
    """Transparent red was red here and white over HTTP."""
    clear = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))
    white = Image.new("RGB", (SIDE, SIDE), "white")
    deep, grey = Image.new("I;16", (SIDE, SIDE), 0x8080), Image.new("L", (SIDE, SIDE), 128)
    process = TileProcessor(SIDE)
    for one, other in ((clear, white), (deep, grey)):
        assert torch.equal(process([one])["pixel_values"], process([other])["pixel_values"])
