"""Tiles of any resolution (LLaVA-NeXT, LLaVA-OneVision): odd shapes, other towers, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, DINOv3ViTConfig, GraniteConfig, SiglipVisionConfig

import dyvte
from dyvte import ExitOptions, ModelError, PromptError, SamplingParams
from tests import tiny
from tests.models.families import llava_next, llava_onevision
from tests.models.families.family import Family, Made, decoder, picture, says
from tests.test_flop_counter import counted

[NEXT], [ONEVISION] = llava_next.FAMILIES, llava_onevision.FAMILIES
OFF = ExitOptions(policy="off")
FIRST = SamplingParams(max_tokens=1, temperature=0, return_logits=True)
SMALL = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    **{"num_attention_heads": 2, "image_size": tiny.SIDE, "patch_size": tiny.PATCH},
}


@pytest.fixture(scope="module", params=[NEXT, ONEVISION], ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (12, 12), (37, 100), (36, 36), (35, 37)])
def test_rows_of_any_shape_are_those_of_the_processor_and_of_the_class(
    size: tuple[int, int], made: Made
) -> None:
    """The padding cut off may be all of the grid: of 1 × 300 pixels the thumbnail is left."""
    messages = [says("user", picture(*size), "what is it?")]
    inputs = made.inputs(messages)
    assert made.expanded(messages) == inputs["input_ids"][0].tolist()
    prompt = made.model.prompt(messages)
    result = dyvte.generate(made.model, prompt, FIRST, OFF)[0]
    assert result.logits is not None
    torch.testing.assert_close(result.logits, made.logits(inputs), atol=2e-4, rtol=0)


def test_a_grid_beyond_the_ratio_is_shrunk(tmp_path: Path) -> None:
    """36 × 36 pixels fill nine tiles: 81 cells, of which about 36 (four tiles') may stay."""
    model = Made(ONEVISION, ONEVISION.save(tmp_path)).model
    rows = model.adapter.visual_rows(processed(model, picture(36, 36)))
    assert rows == [9 + 6 * 6 + 6]


def test_several_images_are_one_square_each_in_onevision(tmp_path: Path) -> None:
    model = Made(ONEVISION, ONEVISION.save(tmp_path)).model
    images = processed(model, picture(36, 36), picture(20, 40))
    assert model.adapter.visual_rows(images) == [10, 10]


def test_images_processed_without_groups_are_tiled_each(tmp_path: Path) -> None:
    """What ``LlavaOnevisionImageProcessor`` makes of a flat list, or of what an older one made."""
    made = Made(ONEVISION, ONEVISION.save(tmp_path))
    images = dict(
        ONEVISION.image_processor()([picture(36, 36), picture(20, 40)], return_tensors="pt")
    )
    older = {key: value for key, value in images.items() if key != "batch_num_images"}
    with torch.no_grad():
        expected = made.reference.get_image_features(**images).pooler_output
    for each in (images, older):
        [rows] = made.model.adapter.encode_images([each])
        assert made.model.adapter.visual_rows(each) == [len(image) for image in expected]
        torch.testing.assert_close(torch.cat(rows), torch.cat(list(expected)), atol=1e-5, rtol=0)


def test_more_padding_tiles_change_nothing(made: Made) -> None:
    adapter = made.model.adapter
    images = processed(made.model, picture(40, 30))
    padding = torch.full((1, 3, *images["pixel_values"].shape[2:]), 7.0)
    wider = images | {"pixel_values": torch.cat([images["pixel_values"], padding], dim=1)}
    [[expected]], [[rows]] = adapter.encode_images([images]), adapter.encode_images([wider])
    torch.testing.assert_close(rows, expected, atol=0, rtol=0)
    assert adapter.vision_flops(wider) == adapter.vision_flops(images)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "no tiles": (lambda i: {"pixel_values": i["pixel_values"][0]}, r"expected \[images, \*, 3, 12"),
    "too few tiles": (
        lambda i: {"pixel_values": i["pixel_values"][:, :1]},
        r"\[1, 1, 3, 12, 12\], expected \d+ tiles or more for an image of \(30, 40\)",
    ),
    "no sizes": (lambda i: {"image_sizes": None}, "need image_sizes"),
    "sizes of three": (lambda i: {"image_sizes": torch.ones(1, 3)}, r"\[1, 3\], expected"),
    "two sizes": (lambda i: {"image_sizes": torch.ones(2, 2)}, "do not fit"),
    "no such number of tiles": (
        lambda i: {"num_tiles": torch.tensor([2])},
        r"num_tiles \[2\] do not fit images whose sizes make \[\d+\] tiles: each has",
    ),
    "tiles of two images": (lambda i: {"num_tiles": [1, 1]}, r"num_tiles \[1, 1\] do not fit"),
    "no height": (lambda i: {"image_sizes": torch.tensor([[0, 4]])}, "do not fit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_images_of_another_shape_are_refused(name: str, made: Made) -> None:
    change, what = BROKEN[name]
    prompt = made.model.prompt([says("user", picture(40, 30), "what?")])
    assert prompt.images is not None
    images = dict(prompt.images)
    images = {k: v for k, v in (images | change(images)).items() if v is not None}
    with pytest.raises(PromptError, match=what):
        dyvte.generate(made.model, replace(prompt, images=images), FIRST)


def test_groups_that_do_not_count_the_images_are_refused(tmp_path: Path) -> None:
    model = Made(ONEVISION, ONEVISION.save(tmp_path)).model
    images = processed(model, picture(36, 36)) | {"batch_num_images": [2]}
    with pytest.raises(PromptError, match=r"batch_num_images \[2\] do not count 1"):
        model.adapter.visual_rows(images)


def towered(family: Family, tower: Any, **settings: Any) -> Family:
    """The family over another tower."""

    def config() -> Any:
        shape = family.config()
        shape.vision_config = tower
        for name, value in settings.items():
            setattr(shape, name, value)
        return shape

    return replace(family, config=config)


OTHERS = {
    "LLaVA-NeXT over SigLIP with a pooling head": towered(
        NEXT, SiglipVisionConfig(**SMALL), vision_feature_select_strategy="full"
    ),
    "LLaVA-NeXT over two levels of CLIP": towered(
        NEXT, CLIPVisionConfig(**SMALL), vision_feature_layer=[-2, -3]
    ),
    "LLaVA-OneVision over CLIP": towered(
        ONEVISION, CLIPVisionConfig(**SMALL), vision_feature_select_strategy="default"
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_towers_are_the_classes_own_features_and_flops(name: str, tmp_path: Path) -> None:
    made = Made(OTHERS[name], OTHERS[name].save(tmp_path))
    adapter: Any = made.model.adapter
    images = processed(made.model, picture(40, 30))
    [rows] = adapter.encode_images([images])
    with torch.no_grad():
        expected = made.reference.get_image_features(**images).pooler_output
    torch.testing.assert_close(rows[0], expected[0], atol=1e-5, rtol=0)
    assert adapter.visual_rows(images) == [len(expected[0])]
    plain: Any = made.plain.adapter
    plain.model.config.vision_config._attn_implementation = "eager"
    assert adapter.vision_flops(images) == counted(lambda: plain.encode_images([images]))


REFUSED = {
    "an unknown tower": (
        towered(NEXT, DINOv3ViTConfig(**SMALL)),
        "vision tower 'dinov3_vit' is not supported",
    ),
    "a class token kept": (
        towered(NEXT, CLIPVisionConfig(**SMALL), vision_feature_select_strategy="full"),
        "'full' does not fit clip_vision_model",
    ),
    "a patch dropped": (
        towered(ONEVISION, SiglipVisionConfig(**SMALL), vision_feature_select_strategy="default"),
        "'default' does not fit siglip_vision_model",
    ),
    "no ratio": (
        towered(ONEVISION, SiglipVisionConfig(**SMALL), vision_aspect_ratio="pad"),
        "vision_aspect_ratio 'pad' is not supported",
    ),
    "canvases that the tower does not divide": (
        towered(NEXT, CLIPVisionConfig(**SMALL), image_grid_pinpoints=[[12, 30]]),
        "no multiples of the vision tower's 12 pixels",
    ),
    "a decoder that scales outside its layers": (
        towered(NEXT, CLIPVisionConfig(**SMALL), text_config=decoder(GraniteConfig)),
        "decoder 'granite' is not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_rows_would_be_wrong_for_is_refused(name: str, tmp_path: Path) -> None:
    family, what = REFUSED[name]
    family.save(tmp_path)
    with pytest.raises(ModelError, match=what):
        dyvte.load(tmp_path, device="cpu", dtype="float32")


def processed(model: dyvte.Model, *pictures: Any) -> dict[str, Any]:
    """A prompt's images as ``dyvte`` makes them."""
    assert model.process_images is not None
    return model.process_images(pictures)
