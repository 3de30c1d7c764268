"""InternVL's tiles: counts told or not, the tower's settings, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2MoeConfig, SiglipVisionConfig

import dyvte
from dyvte import ModelError, PromptError
from tests.models.families.family import Family, Made, decoder, picture, says
from tests.models.families.internvl import FAMILIES, ROWS, SIDE, config

FAMILY = FAMILIES[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(FAMILY, FAMILY.save(tmp_path_factory.mktemp("internvl")))


@pytest.mark.parametrize(
    ("size", "tiles"), [((16, 16), 1), ((32, 16), 3), ((16, 48), 4), ((1, 90), 7), ((33, 32), 5)]
)
def test_a_picture_is_as_many_tiles_as_its_shape_and_a_thumbnail(
    size: tuple[int, int], tiles: int, made: Made
) -> None:
    """One tile has no thumbnail; no more than six of them are made here."""
    messages = [says("user", picture(*size), "what is it?")]
    layout = made.model.adapter.layout(made.model.prompt(messages))
    assert layout.visual_rows == tiles * ROWS
    assert made.expanded(messages) == made.inputs(messages)["input_ids"][0].tolist()


def test_tile_counts_have_two_names_and_may_be_missing(made: Made) -> None:
    """Original readers tell ``num_tiles``; where nobody cuts, each picture is one tile."""
    adapter = made.model.adapter
    pixels = torch.randn(4, 3, SIDE, SIDE)
    for name in ("num_patches", "num_tiles"):
        images = {"pixel_values": pixels, name: torch.tensor([3, 1])}
        assert adapter.visual_rows(images) == [3 * ROWS, ROWS]
        [rows] = adapter.encode_images([images])
        assert [len(image) for image in rows] == [3 * ROWS, ROWS]
    assert adapter.visual_rows({"pixel_values": pixels}) == [ROWS] * 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"num_tiles": [2]}, r"num_tiles \[2\] do not count .* \[3, 3, 16, 16\]"),
        ({"num_patches": None, "num_tiles": [2]}, r"num_tiles \[2\] do not count"),
        ({"num_patches": [2]}, r"num_patches \[2\] do not count .* \[3, 3, 16, 16\]"),
        ({"num_patches": [4, -1]}, r"\[4, -1\] do not count"),
        ({"pixel_values": torch.zeros(3, 3, 8, 8)}, r"\[3, 3, 8, 8\], expected \[images, 3, 16"),
        ({"pixel_values": torch.zeros(1, 3, 3, 16, 16)}, r"\[1, 3, 3, 16, 16\], expected"),
    ],
)
def test_images_of_another_shape_are_refused(change: Any, what: str, made: Made) -> None:
    prompt = made.model.prompt([says("user", picture(32, 16), "what?")])
    assert prompt.images is not None
    with pytest.raises(PromptError, match=what):
        dyvte.generate(made.model, replace(prompt, images={**prompt.images, **change}))


def changed(**settings: Any) -> Family:
    """The family with another decoder (``text``) or other settings of the whole (``model``)."""

    def build() -> Any:
        shape = config(settings.get("text", decoder(Qwen2Config)), {})
        for name, value in settings.get("model", {}).items():
            setattr(shape, name, value)
        return shape

    return replace(FAMILY, config=build)


SIGLIP = SiglipVisionConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16
)
REFUSED = {
    "an unknown tower": (changed(model={"vision_config": SIGLIP}), "weights are missing|no square"),
    "a class token kept": (
        changed(model={"vision_feature_select_strategy": "full"}),
        "vision_feature_select_strategy 'full'",
    ),
    "two levels": (changed(model={"vision_feature_layer": [-1, -2]}), r"layer \[-1, -2\]"),
    "a decoder of experts": (
        changed(text=decoder(Qwen2MoeConfig)),
        "decoder 'qwen2_moe' is not supported",
    ),
    "layers of another attention": (
        changed(text=decoder(Qwen2Config, layer_types=["full_attention", "linear_attention"] * 2)),
        "decoder layers of type linear_attention are not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_rows_would_be_wrong_for_is_refused(name: str, tmp_path: Path) -> None:
    family, what = REFUSED[name]
    family.save(tmp_path)
    with pytest.raises(ModelError, match=what):
        dyvte.load(tmp_path, device="cpu", dtype="float32")
