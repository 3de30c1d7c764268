"""From decoded pictures to what a vision tower takes, by the family's own image processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from dyvte.errors import PromptError
from dyvte.models.vision.detail import LowDetail, joined
from dyvte.pictures import rgb

MAX_RATIO = 200
"""Longest by shortest side, as Qwen-VL's own image processor has it."""
MAX_SQUARE = 4096
"""Side in pixels of the largest square that a picture is laid on; towers see far fewer."""
MAX_RESIZED = 2 * MAX_SQUARE**2
"""Most pixels that a picture has once its shorter side is a tower's, before the rest is cut off."""


class ProcessImages(Protocol):
    """Pictures → what the family's ``encode_images`` takes, images in order."""

    def __call__(
        self, images: Sequence[Image.Image], details: Sequence[str] = ()
    ) -> dict[str, Any]:
        """``details`` has one of ``dyvte.prompt.DETAILS`` for each picture; none are all "auto"."""
        ...


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """A ``transformers`` image processor, with what the original code does before it.

    ``settings`` are the arguments that the family's whole processor would give it, ``low`` is how
    it sees a picture of low detail (None: as any other).
    """

    processor: Any
    before: Callable[[Image.Image, Any], Image.Image] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    low: LowDetail | None = None

    def __call__(
        self, images: Sequence[Image.Image], details: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What the processor returns, e.g. ``{"pixel_values": [images, 3, H, W]}`` (float32).

        Raises PromptError where it refuses a picture, and for one of an extreme shape. What the
        processor says about it stays in the error's cause: it may name objects of this process.
        """
        pictures = [readable(image) for image in images]
        if self.low is not None and self.low.as_one_of_several and len(pictures) > 1:
            # The processor would square them as well, without a bound.
            return self._processed([pad_to_square(image, self.processor) for image in pictures])
        if self.low is None or "low" not in details:
            return self._processed(pictures)
        parts: list[Mapping[str, Any]] = []
        for image, detail in zip(pictures, details, strict=True):
            low = detail == "low"
            parts.append(self._seen_low(image, self.low) if low else self._processed([image]))
        return joined(parts)

    def _seen_low(self, image: Image.Image, low: LowDetail) -> Mapping[str, Any]:
        if low.as_one_of_several:
            image = pad_to_square(image, self.processor)
        return low.kept(self._processed([image], low.settings(self.processor)))

    def _processed(
        self, pictures: Sequence[Image.Image], settings: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if self.before is not None:
            pictures = [self.before(image, self.processor) for image in pictures]
        for image in pictures:
            self._check_resized(image)
        given = {**self.settings, **(settings or {})}
        try:
            # A list of one prompt's list: OneVision treats several images of a prompt otherwise.
            return dict(self.processor(images=[pictures], return_tensors="pt", **given))
        except ValueError as error:
            raise PromptError("the model's image processor refuses a picture") from error

    def _check_resized(self, image: Image.Image) -> None:
        """Raise PromptError for a picture that grows too large on the way to its crop.

        Where a processor has a ``longest_edge`` as well, that bounds it.
        """
        size = self.processor.size
        edge = 0 if size.get("longest_edge") else size.get("shortest_edge", 0)
        if edge**2 * max(image.size) > MAX_RESIZED * min(image.size):
            raise PromptError(
                f"an image has {image.width} × {image.height} pixels; with a shorter side of "
                f"{edge}, as this model takes it, it would have more than {MAX_RESIZED}"
            )


def readable(image: Image.Image) -> Image.Image:
    """The picture in RGB. Raises PromptError for one of an extreme shape or without pixels.

    Resized to a side of its own, or laid on a square, a few bytes of it would fill the memory.
    """
    longest, shortest = max(image.size), min(image.size)
    if shortest < 1 or longest > MAX_RATIO * shortest:
        raise PromptError(
            f"an image has {image.width} × {image.height} pixels; its aspect ratio may be at most "
            f"{MAX_RATIO}"
        )
    return rgb(image)


def on_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Centred on a square of ``colour``; what is longer than ``MAX_SQUARE`` is shrunk to it."""
    if image.width == image.height:
        return image
    side = max(image.size)
    if side > MAX_SQUARE:
        width, height = (max(1, round(each * MAX_SQUARE / side)) for each in image.size)
        image, side = image.resize((width, height), Image.Resampling.BICUBIC), MAX_SQUARE
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def pad_to_square(image: Image.Image, processor: Any) -> Image.Image:
    """LLaVA-1.5's ``image_aspect_ratio: pad``: centred on the mean colour."""
    return on_square(image, tuple(int(255 * mean) for mean in processor.image_mean))


def resize_to_tower(image: Image.Image, processor: Any) -> Image.Image:
    """VILA's ``image_aspect_ratio: resize``: stretched to the tower's size, bicubic."""
    size = getattr(processor, "crop_size", None) or processor.size
    return image.resize((size["height"], size["width"]))
