"""What families share whose images all have the same size and give the same number of rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyvte.models.adapter import processed
from dyvte.models.decoder import DecoderAdapter
from dyvte.transfer import moved


class FixedRowsAdapter(DecoderAdapter):
    """``images``: ``pixel_values [n, *image_shape]``; each costs ``flops_per_image``.

    Pixels reach the tower as ``pixel_dtype``, the model's own where that is None.
    """

    rows_per_image: int
    image_shape: tuple[int, int, int]
    flops_per_image: int
    pixel_dtype: torch.dtype | None = None

    @abstractmethod
    def see(self, pixels: Tensor) -> Iterable[Tensor]:
        """Tower and projector: ``[n, *image_shape]`` → n times ``[rows_per_image, d]``."""

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """The same number for every image."""
        return [self.rows_per_image] * len(self._pixels(images))

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the images of all prompts."""
        pixels = [self._pixels(each) for each in images]
        if not any(map(len, pixels)):
            return [[] for _ in images]
        dtype = self.pixel_dtype or self.dtype
        rows = iter(self.see(moved(torch.cat(pixels), self.device, dtype)))
        return [[next(rows) for _ in each] for each in pixels]

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """One by one."""
        return [{"pixel_values": each[None]} for each in self._pixels(images)]

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Every layer of the tower that runs is counted."""
        return len(images["pixel_values"]) * self.flops_per_image

    def _pixels(self, images: Mapping[str, Any]) -> Tensor:
        return processed(images, "pixel_values", *self.image_shape)
