"""The parts of a prompt that the figures tell apart: system, image, and the text behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.models.adapter import PromptLayout


@dataclass(frozen=True, slots=True)
class Regions:
    """Masks ``[n]`` (bool) over the rows of a prompt as it was before anything left.

    ``visual``: rows of images (V). ``text``: rows outside of them from the first image on (T);
    with one image that is the text behind it. What comes before is the system part and is in
    neither.
    """

    visual: Tensor
    text: Tensor

    @classmethod
    def of(cls, layout: PromptLayout, device: torch.device | str = "cpu") -> Regions:
        """Regions of an expanded prompt. Raises ValueError where there is no image."""
        if not layout.spans:
            raise ValueError("a prompt without an image has no regions to tell apart")
        visual = torch.zeros(layout.rows, dtype=torch.bool)
        for span in layout.spans:
            visual[span.start : span.stop] = True
        behind = torch.arange(layout.rows) >= layout.spans[0].start
        return cls(visual.to(device), (behind & ~visual).to(device))
