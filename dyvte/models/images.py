"""From decoded pictures to what a vision tower takes, by the family's own image processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dyvte.errors import PromptError

ProcessImages = Callable[[Sequence[Image.Image]], dict[str, Any]]
"""Pictures → what the family's ``encode_images`` takes, images in order."""


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """A ``transformers`` image processor, with what the original code does before it.

    ``settings`` are the arguments that the family's whole processor would give it.
    """

    processor: Any
    before: Callable[[Image.Image, Any], Image.Image] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """What the processor returns, e.g. ``{"pixel_values": [images, 3, H, W]}`` (float32).

        Raises PromptError where it refuses a picture (Qwen-VL's: one 200 times as long as wide).
        """
        rgb = [image.convert("RGB") for image in images]
        if self.before is not None:
            rgb = [self.before(image, self.processor) for image in rgb]
        try:
            # A list of one prompt's list: OneVision treats several images of a prompt otherwise.
            return dict(self.processor(images=[rgb], return_tensors="pt", **self.settings))
        except ValueError as error:
            raise PromptError(f"the model's image processor refuses a picture: {error}") from error


def pad_to_square(image: Image.Image, processor: Any) -> Image.Image:
    """LLaVA-1.5's ``image_aspect_ratio: pad``: centred on the mean colour."""
    if image.width == image.height:
        return image
    side = max(image.size)
    colour = tuple(int(255 * mean) for mean in processor.image_mean)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def resize_to_tower(image: Image.Image, processor: Any) -> Image.Image:
    """VILA's ``image_aspect_ratio: resize``: stretched to the tower's size, bicubic."""
    size = getattr(processor, "crop_size", None) or processor.size
    return image.resize((size["height"], size["width"]))
