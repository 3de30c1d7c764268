"""Pictures of a few bytes that would grow: what bounds their rows and the memory on the way."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf
from PIL import Image

from dyvte import PromptError
from dyvte.models.families.llava_onevision import LlavaOnevisionAdapter
from dyvte.models.vision.images import MAX_RESIZED, MAX_SQUARE, ImageProcessor, pad_to_square

QWEN2 = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 64}
QWEN3 = {"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 64}
PATCH = {"qwen2": 14, "qwen3": 16}


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def qwen(name: str) -> ImageProcessor:
    size = QWEN2 if name == "qwen2" else QWEN3
    return ImageProcessor(hf.Qwen2VLImageProcessorPil(patch_size=PATCH[name], size=size))


def clip(side: int, pad: bool = False) -> ImageProcessor:
    processor = hf.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return ImageProcessor(processor, pad_to_square if pad else None)


@pytest.mark.parametrize("name", PATCH)
@pytest.mark.parametrize(
    ("size", "most"),
    [((30000, 150), 113), ((150, 30000), 113), ((9000, 150), 64), ((900,) * 2, 64)],
)
def test_smart_resize_keeps_a_picture_to_the_rows_that_the_models_pixels_are(
    name: str, size: tuple[int, int], most: int
) -> None:
    """64 rows here. A picture thinner than a row keeps one, which is longer by its ratio's root."""
    found = qwen(name)([blank(*size)])
    [[_, height, width]] = found["image_grid_thw"].tolist()
    assert height * width // 4 <= most
    assert len(found["pixel_values"]) == height * width


@pytest.mark.parametrize("name", PATCH)
def test_smart_resize_lets_the_thinnest_picture_grow_to_few_rows(name: str) -> None:
    """1 × 200: its sides are rounded up to whole rows."""
    [[_, height, width]] = qwen(name)([blank(1, 200)])["image_grid_thw"].tolist()
    assert height * width // 4 <= 32


@pytest.mark.parametrize("process", [qwen("qwen2"), clip(336), clip(336, pad=True)])
def test_what_is_longer_than_two_hundred_times_its_width_is_refused(
    process: ImageProcessor,
) -> None:
    with pytest.raises(PromptError, match="1 × 200000 pixels; its aspect ratio may be at most 200"):
        process([blank(1, 200000)])


def test_a_picture_that_grows_too_large_on_the_way_to_its_crop_is_refused() -> None:
    """1 × 200 on a side of 1024 was 210 million pixels before it was cut to one."""
    with pytest.raises(PromptError, match=f"shorter side of 1024.* more than {MAX_RESIZED}"):
        clip(1024)([blank(1, 200)])
    assert clip(1024)([blank(10, 300)])["pixel_values"].shape == (1, 3, 1024, 1024)
    assert clip(1024, pad=True)([blank(1, 200)])["pixel_values"].shape == (1, 3, 1024, 1024)
    assert clip(336)([blank(1, 200)])["pixel_values"].shape == (1, 3, 336, 336)


@pytest.mark.parametrize("details", [["low"], ["auto", "auto"]])
def test_what_onevision_squares_is_squared_within_bounds(details: list[str]) -> None:
    """Two of 100000 × 500 pixels were laid on squares of 30 GB; one of low detail would be."""
    longest: list[int] = []

    class Watched(hf.LlavaOnevisionImageProcessorPil):  # type: ignore[misc]
        def _preprocess(self, images: Any, *groups: Any, **settings: Any) -> Any:
            longest.extend(max(image.shape) for image in images)
            return super()._preprocess(images, *groups, **settings)

    side = {"height": 12, "width": 12}
    watched = Watched(size=side, image_grid_pinpoints=[[12, 12], [24, 24]])
    process = ImageProcessor(watched, low=LlavaOnevisionAdapter.low_detail)
    found = process([blank(MAX_SQUARE + 904, 25)] * len(details), details)
    assert longest == [MAX_SQUARE] * len(details)
    assert found["pixel_values"].shape == (len(details), 1, 3, 12, 12)
