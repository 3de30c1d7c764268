"""What a library says of a picture may name this process's objects, so that users never read it."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from dyvte.errors import PromptError
from dyvte.models.vision.images import ImageProcessor


class Refuses:
    """A processor that fails as ``transformers``' do: with the repr of what it was given."""

    size: dict[str, int] = {"height": 8, "width": 8}  # noqa: RUF012

    def __call__(self, images: Any, **_: Any) -> dict[str, Any]:
        raise ValueError(f"invalid image type: {images!r}")


def test_a_refusal_names_no_object_of_this_process() -> None:
    with pytest.raises(PromptError) as caught:
        ImageProcessor(Refuses())([Image.new("RGB", (8, 8))])
    assert "0x" not in str(caught.value)
    assert "0x" in str(caught.value.__cause__)
