"""Visual tokens of a model that brings no settings of an image processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import dyvte
from dyvte.inspection import inspect
from dyvte.models.checkpoints.meta import on_meta
from dyvte.models.checkpoints.native import native_adapter
from dyvte.models.vision.assumed import assumed_processor
from dyvte.sizing import Serving
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import Family
from tests.models.families.test_qwen_vl_published import QWEN2_5_VL_7B, QWEN3_VL_8B, Published
from tests.models.families.test_real_sizes import REAL


@pytest.mark.parametrize(
    ("name", "size", "rows", "low"),
    [
        ("LLaVA-1.5-7B", (640, 480), 576, 576),
        ("LLaVA-1.6-Mistral-7B", (672, 672), 576 + 48 * 49, 577),
        ("LLaVA-OneVision-7B", (1152, 1152), 729 + 81 * 82, 730),
        ("InternVL2.5-8B", (640, 480), 13 * 256, 256),
        ("InternVL2.5-8B", (448, 448), 256, 256),
    ],
)
def test_rows_are_those_of_the_releases(
    name: str, size: tuple[int, int], rows: int, low: int
) -> None:
    adapter = REAL[name].adapter()
    process = assumed_processor(adapter)
    assert process is not None
    assert adapter.visual_rows(process([Image.new("RGB", size)])) == [rows]
    assert adapter.visual_rows(process([Image.new("RGB", size)], ["low"])) == [low]


@pytest.mark.parametrize(
    ("name", "high", "low"),
    [
        ("LLaVA-1.5-7B", 576, 576),
        ("LLaVA-1.6-Mistral-7B", 1948, 577),
        ("LLaVA-OneVision-7B", 5967, 730),
        ("InternVL2.5-8B", 2304, 256),
        ("Qwen2.5-VL-7B", 1196, 312),
        ("Qwen3-VL-8B", 880, 252),
    ],
)
def test_what_details_of_1280_by_720_cost_is_what_the_page_says(
    name: str, high: int, low: int, tmp_path: Path
) -> None:
    """In docs/models.md."""
    published = {"Qwen2.5-VL-7B": QWEN2_5_VL_7B, "Qwen3-VL-8B": QWEN3_VL_8B}.get(name)
    if published is not None:
        (tmp_path / "config.json").write_text(json.dumps(published.config))
    adapter = dyvte.build(tmp_path).adapter if published else REAL[name].adapter()
    process = assumed_processor(adapter)
    assert process is not None
    pictures, details = [Image.new("RGB", (1280, 720))], ("high", "low")
    found = [adapter.visual_rows(process(pictures, [detail])) for detail in details]
    assert found == [[high], [low]]


@pytest.mark.parametrize(
    ("published", "rows"),
    [(QWEN2_5_VL_7B, 23 * 17), (QWEN3_VL_8B, 20 * 15)],
    ids=["patches of 28 pixels", "patches of 32 pixels"],
)
def test_a_grid_follows_the_picture(published: Published, rows: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published.config))
    model = dyvte.build(tmp_path)
    found = inspect(model, [(640, 480)], 64, 64, Serving(1, 256, 8192, 2))
    assert found.images_assumed
    assert [image.visual_tokens for image in found.images] == [rows]
    assert sum(part.parameters for part in found.parts) == published.parameters
    assert [part.part for part in found.parts] == [
        "vision tower",
        "projector",
        "decoder",
        "LM head",
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_native_family_has_one(family: Family) -> None:
    config = family.config()
    kind = native_adapter(config.to_dict())
    assert kind is not None
    adapter = kind(on_meta(kind.native, config, torch.float32))
    process = assumed_processor(adapter)
    assert process is not None
    [rows] = adapter.visual_rows(process([Image.new("RGB", (90, 60))]))
    assert rows > 0
