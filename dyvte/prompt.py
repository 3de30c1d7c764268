"""A prompt as the engine takes it: token ids with image placeholders, and processed images.

Expansion of a placeholder into visual rows is the model adapter's; text is the tokenizer's.
Knows no torch: ``images`` holds whatever the family's image processor returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from dyvte.errors import PromptError

IMAGE = -200
"""The id that stands for one image in ``Prompt.token_ids`` (LLaVA's ``IMAGE_TOKEN_INDEX``)."""

DETAILS = ("auto", "low", "high")
"""How finely to look at an image: "low" with the fewest visual tokens that do."""

Message = Mapping[str, Any]
"""``role`` and ``content``: a string, or a list of parts of type text (``text``) or image
(``image``, a PIL image; ``detail``, one of ``DETAILS``, may stand beside it). An assistant's may
have ``tool_calls`` (``name`` and ``arguments``, an object); role "tool" is what one returned."""


@dataclass(frozen=True, slots=True)
class VisualSpan:
    """Rows ``start..stop-1`` of an expanded prompt that come from one image."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> range:
        """The rows themselves."""
        return range(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, with ``IMAGE`` once per image, and the processed images in the same order.

    ``user_turns`` above 1 make it a conversation, whose exits are measured apart.
    ``images`` is what the family's image processor returns, e.g. ``{"pixel_values":
    [images, 3, H, W]}``; None for text only. ``image_key`` stands for their content
    (``dyvte.engine.image_cache.content_key``); without one they are looked up in no cache.
    """

    token_ids: Sequence[int]
    images: Mapping[str, Any] | None = field(default=None)
    user_turns: int = 1
    image_key: bytes | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "token_ids", [index(i) for i in self.token_ids])
        except TypeError as error:
            raise PromptError("token_ids must be integers") from error
        if self.images is not None and not isinstance(self.images, Mapping):
            raise PromptError(
                f"images is {type(self.images).__name__}, expected what the model's image "
                "processor returns, by name"
            )
        if not self.images:
            object.__setattr__(self, "images", None)
        if not self.token_ids:
            raise PromptError("the prompt is empty: give at least one token")

    @property
    def conversation(self) -> bool:
        """True if the user has asked before."""
        return self.user_turns > 1

    @property
    def num_images(self) -> int:
        """Image placeholders in the token ids."""
        return sum(1 for i in self.token_ids if i == IMAGE)
