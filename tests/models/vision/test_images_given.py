"""What a caller may give as ``images``: anything else is a PromptError, not a traceback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dyvte
from dyvte import Prompt, PromptError, SamplingParams
from dyvte.models import adapter
from dyvte.models.adapter import counted, processed
from dyvte.prompt import IMAGE
from tests import tiny

PIXELS = torch.zeros(1, 3, tiny.SIDE, tiny.SIDE)
SHAPE = (3, tiny.SIDE, tiny.SIDE)


@pytest.mark.parametrize(
    "given",
    [
        "hello",
        None,
        [[1.0], [1.0, 2.0]],
        np.array([object()], dtype=object),
        np.zeros((1, *SHAPE))[:, ::-1],
        [torch.zeros(1), torch.zeros(2)],
        PIXELS.bool(),
        PIXELS.to(torch.complex64),
        PIXELS + float("nan"),
        PIXELS[0],
    ],
    ids=["str", "none", "ragged", "object", "strides", "sizes", "bool", "complex", "nan", "3-d"],
)
def test_pixels_that_are_none_are_the_callers_error(given: Any, tiny_model: dyvte.Model) -> None:
    with pytest.raises(PromptError, match="pixel_values"):
        tiny_model.adapter.layout(Prompt([5, IMAGE, 6], {"pixel_values": given}))


def test_pixels_are_looked_through_once_and_not_where_they_are_encoded(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look reads every number; the engine's own thread did it again."""
    looks: list[str] = []
    monkeypatch.setattr(adapter, "check_finite", lambda images, key: looks.append(key))
    dyvte.generate(tiny_model, tiny.prompt(images=2), SamplingParams(max_tokens=1))
    assert looks == ["pixel_values"]
    tiny_model.adapter.encode_images([{"pixel_values": PIXELS + float("nan")}])


def test_a_list_of_one_tensor_per_image_is_taken() -> None:
    found = processed({"pixel_values": [PIXELS[0], PIXELS[0]]}, "pixel_values", *SHAPE)
    assert found.shape == (2, *SHAPE)


@pytest.mark.parametrize("given", [[3.0], ["3"], [True], [0], [-1]])
def test_counts_are_integers_of_at_least_one(given: Any) -> None:
    assert counted({"num_tiles": [3, 1]}, "num_tiles") == [3, 1]
    with pytest.raises(PromptError, match="num_tiles"):
        counted({"num_tiles": given}, "num_tiles")


def test_no_images_are_no_images(tiny_model: dyvte.Model) -> None:
    assert tiny_model.adapter.layout(Prompt([5, 6], {})).rows == 2


def test_a_prompt_of_wrong_types_is_refused() -> None:
    """A float was cut to the integer below it."""
    with pytest.raises(PromptError, match="integers"):
        Prompt([1, 2.5])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="Tensor"):
        Prompt([IMAGE], PIXELS)  # type: ignore[arg-type]
