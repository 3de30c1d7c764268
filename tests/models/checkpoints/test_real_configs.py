"""Published configs on the meta device: a model of any size is sized without its weights.

`configs/` holds config files with the sizes and words of the published ones, and nothing else. What
the paper prints is convention C of `dyvte.flops`: prefill, tower and projector, at its 56 or so
text tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import dyvte
from dyvte.inspection import Inspection, inspect
from dyvte.sizing import Serving

CONFIGS = Path(__file__).parent / "configs"
PAPER_TEXT = 56
SERVING = Serving(concurrency=8, page_size=256, prefill_rows=8192, itemsize=2)


def look_at(name: str) -> Inspection:
    model = dyvte.build(CONFIGS / name, device="cuda")
    return inspect(model, [(640, 480)], PAPER_TEXT, 16, SERVING)


@pytest.mark.parametrize(
    ("name", "tera", "billions"),
    [
        ("llava-1.5-7b-hf", 8.8, 7.06),
        ("llava-1.5-13b-hf", 16.8, 13.35),
        ("llava-v1.5-7b", 8.8, 7.06),
        ("llava-v1.5-13b", 16.8, 13.35),
    ],
)
def test_the_papers_rows_come_out(name: str, tera: float, billions: float) -> None:
    found = look_at(name)
    flops = found.requests[0].flops
    assert flops.vision + flops.prefill == pytest.approx(tera * 1e12, rel=0.015)
    assert sum(part.parameters for part in found.parts) == pytest.approx(billions * 1e9, rel=2e-3)
    assert found.model.dtype == "float16"
    assert found.model.weight_bytes == 2 * sum(part.parameters for part in found.parts)
    assert [image.visual_tokens for image in found.images] == [576]
    assert found.images_assumed


def test_mean_exits_of_the_paper_cost_what_it_prints() -> None:
    """GQA leaves after layer 16.4 on average: 5.3 of 8.8 TFLOPs."""
    model = dyvte.build(CONFIGS / "llava-1.5-7b-hf", device="cuda")
    shape = model.adapter.decoder
    seeing = 16.4 + 1
    full, text = shape.layer(632, 632), shape.layer(56, 56)
    vision = inspect(model, [(336, 336)], 56, 1, SERVING).request.vision_flops
    total = seeing * full + (shape.num_layers - seeing) * text + vision
    assert total == pytest.approx(5.3e12, rel=0.015)


def test_layouts_are_told_apart() -> None:
    assert look_at("llava-1.5-7b-hf").model.layout == "transformers"
    original = look_at("llava-v1.5-7b").model
    assert original.layout == "LLaVA-1.5's original"
    assert (original.family, original.loaded, original.context) == ("llava", False, 4096)


PUBLISHED = {
    # family, parameters in billions as the model cards say, visual tokens of 640x480, its dtype
    "Llama-3-VILA1.5-8B": ("vila", 8.49, 196, "bfloat16"),
    "InternVL2_5-8B": ("internvl_chat", 8.08, 13 * 256, "bfloat16"),
    "InternVL-Chat-V1-5": ("internvl_chat", 25.5, 13 * 256, "bfloat16"),
    "InternVL-Chat-V1-0": ("llava", 12.7, 576, "float16"),
    "Eagle-X5-7B": ("eagle", 9.06, 1024, "bfloat16"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_other_families_are_sized(name: str) -> None:
    family, billions, visual, dtype = PUBLISHED[name]
    found = look_at(name)
    assert (found.model.family, found.model.dtype) == (family, dtype)
    assert sum(part.parameters for part in found.parts) == pytest.approx(billions * 1e9, rel=5e-3)
    assert [image.visual_tokens for image in found.images] == [visual]
    assert {part.part for part in found.parts} >= {"vision tower", "projector", "decoder"}
    assert "other" not in {part.part for part in found.parts}
    saved = [cost.flops.saved for cost in found.requests]
    assert saved == sorted(saved)
    assert saved[-1] > 0


def test_every_tower_of_eagle_is_told() -> None:
    parts = look_at("Eagle-X5-7B").parts
    kinds = [part.kind for part in parts if part.part == "vision tower"]
    assert kinds == [
        "clip_vision_model",
        "convnext",
        "sam_vision_model",
        "eva02_vision_model",
        "pix2struct_vision_model",
    ]
