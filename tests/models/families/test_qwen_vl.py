"""What only the Qwen-VL families have: grids of any size, three positions a row, deepstack.

Claims of every family are in ``families/``. The reference is the family's own class.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import dyvte
from dyvte import Prompt, PromptError
from dyvte.models.vision.grids import Grid, mrope_positions
from dyvte.prompt import IMAGE, VisualSpan
from tests import tiny
from tests.models.families.family import Made, picture, says
from tests.models.families.qwen_vl import (
    END,
    FAMILIES,
    GRIDS,
    MERGE,
    PATCH_INPUTS,
    START,
    images_of,
    native_inputs,
    prompt,
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("name", GRIDS)
def test_positions_are_the_classes_own(name: str, after: int, made: Made) -> None:
    """Those of the prompt, and those of what is generated behind it."""
    asked = prompt(1, GRIDS[name], after=after)
    given = native_inputs(asked)
    positions, delta = made.reference.model.get_rope_index(
        given["input_ids"], given["mm_token_type_ids"], given["image_grid_thw"]
    )
    adapter = made.model.adapter
    layout = adapter.layout(asked)
    assert adapter.positions(layout, 0, layout.rows).equal(positions[:, 0])
    assert layout.delta == int(delta)
    behind = adapter.positions(layout, layout.rows, layout.rows + 2)
    assert behind.tolist() == [[layout.rows + layout.delta, layout.rows + layout.delta + 1]] * 3


def test_text_alone_counts_on_all_three_axes(made: Made) -> None:
    adapter = made.model.adapter
    layout = adapter.layout(prompt(1, []))
    assert (
        adapter.positions(layout, 1, layout.rows + 2).tolist()
        == [list(range(1, layout.rows + 2))] * 3
    )


def test_images_side_by_side_follow_each_other() -> None:
    spans = (VisualSpan(1, 3), VisualSpan(3, 4))
    found = mrope_positions(5, spans, [Grid(1, 2, 4), Grid(1, 2, 2)], MERGE)
    assert found.tolist() == [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (images_of(torch.zeros(16, PATCH_INPUTS), [[1, 4, 6]]), "adds up to 24 patches.*has 16"),
        (images_of(torch.zeros(12, PATCH_INPUTS), [[1, 3, 4]]), r"\[1, 3, 4\].*multiples of 2"),
        (images_of(torch.zeros(16, PATCH_INPUTS), [[1, -4, -4]]), r"\[1, -4, -4\].*multiples of 2"),
        (images_of(torch.zeros(16, PATCH_INPUTS), [[0, 4, 4]]), "at least one frame"),
        (
            images_of(torch.zeros(16, PATCH_INPUTS), [[1, 2**40, 2**40]]),
            "patches, pixel_values has 16",
        ),
        (images_of(torch.zeros(16, PATCH_INPUTS), [1, 4, 4]), r"shape \[3\].*\[images, 3\]"),
        (images_of(torch.zeros(16, PATCH_INPUTS), [[1.0, 4.0, 4.0]]), "expected integers"),
        (
            images_of(torch.zeros(16, 8), [[1, 4, 4]]),
            rf"\[16, 8\], expected \[patches, {PATCH_INPUTS}\]",
        ),
        ({"pixel_values": torch.zeros(16, PATCH_INPUTS)}, "need image_grid_thw"),
        ({"image_grid_thw": torch.tensor([[1, 4, 4]])}, "need pixel_values"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Any, what: str, made: Made) -> None:
    with pytest.raises(PromptError, match=what):
        dyvte.generate(made.model, Prompt([1, START, IMAGE, END, 30], images))


def test_rows_that_the_tower_does_not_give_are_told_with_both_numbers(made: Made) -> None:
    adapter = made.model.adapter
    layout = adapter.layout(prompt(1, [(1, 4, 6)]))
    with pytest.raises(PromptError, match="gave 5 rows where 6 were expected"):
        adapter.part(0, layout, [torch.zeros(5, tiny.HIDDEN)])


def test_a_picture_that_the_processor_refuses_is_told(made: Made) -> None:
    narrow = Image.new("RGB", (1, 300))
    with pytest.raises(PromptError, match="aspect ratio"):
        made.model.prompt([says("user", narrow, "what is it?")])


def test_videos_are_refused(made: Made) -> None:
    with pytest.raises(PromptError, match="'video': use text or image"):
        made.model.prompt([{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}])
    images = {
        **images_of(torch.zeros(16, PATCH_INPUTS), [[1, 4, 4]]),
        "video_grid_thw": [[1, 4, 4]],
    }
    with pytest.raises(PromptError, match="video_grid_thw"):
        dyvte.generate(made.model, Prompt([1, START, IMAGE, END, 30], images))


def test_grids_follow_the_processors_limits(made: Made) -> None:
    """A picture of any size stays between the fewest and the most rows of the settings."""
    for size in ((2, 3), (40, 30), (900, 500), (60, 300)):
        asked = made.model.prompt([says("user", picture(*size), "?")])
        assert 4 <= made.model.adapter.layout(asked).visual_rows <= 20
