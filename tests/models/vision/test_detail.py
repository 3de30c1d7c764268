"""The pixels that low detail leaves to a picture in its own shape, and joined pictures."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from PIL import Image

from dyvte.models.vision.detail import LOW_PIXELS, LowDetail, fewer_pixels, joined
from dyvte.models.vision.images import ImageProcessor

ROW = {"qwen2": 28, "qwen3": 32}
BUDGET = {
    "qwen2": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384},
    "qwen3": {"shortest_edge": 65536, "longest_edge": 16777216},
}


def qwen(patch: int, size: dict[str, int]) -> ImageProcessor:
    processor = hf.Qwen2VLImageProcessorPil(patch_size=patch, size=size)
    return ImageProcessor(processor, low=LowDetail(fewer_pixels))


@pytest.mark.parametrize("name", ROW)
@pytest.mark.parametrize("size", [(512, 512), (1280, 720), (300, 2000), (4000, 3000)])
def test_low_is_what_512_by_512_pixels_give(name: str, size: tuple[int, int]) -> None:
    process = qwen(ROW[name] // 2, BUDGET[name])
    grids = process([Image.new("RGB", size)] * 2, ["low", "high"])["image_grid_thw"]
    low, high = (int(grid.prod()) // 4 * ROW[name] ** 2 for grid in grids)
    assert 0.8 * LOW_PIXELS < low <= LOW_PIXELS
    assert high == low if size == (512, 512) else high > low


def test_a_small_picture_is_the_same_in_any_detail() -> None:
    low, high = (
        qwen(14, BUDGET["qwen2"])([Image.new("RGB", (300, 200), "red")], [detail])
        for detail in ("low", "high")
    )
    assert torch.equal(low["pixel_values"], high["pixel_values"])


@pytest.mark.parametrize(
    ("least", "most", "low"),
    [(3136, 12845056, LOW_PIXELS), (3136, 400000, 100000), (200000, 400000, 200000)],
)
def test_a_folders_own_small_budget_is_quartered_and_its_least_kept(
    least: int, most: int, low: int
) -> None:
    """Else low would change nothing where an operator has bounded pictures."""
    size = {"shortest_edge": least, "longest_edge": most}
    processor = hf.Qwen2VLImageProcessorPil(size=size)
    assert fewer_pixels(processor)["size"] == {"shortest_edge": least, "longest_edge": low}


def test_tiles_are_filled_up_with_zeros_and_counted() -> None:
    one, three = torch.ones(1, 1, 3, 2, 2), torch.ones(1, 3, 3, 2, 2)
    found = joined([{"pixel_values": one}, {"pixel_values": three}])
    assert found["num_tiles"].tolist() == [1, 3]
    assert found["pixel_values"].sum((2, 3, 4)).tolist() == [[12, 0, 0], [12, 12, 12]]
