"""The picture world: scenes are facts of their seed, objects neither overlap nor hide."""

from __future__ import annotations

from itertools import combinations

import pytest

from dyvte.demo.palette import COLORS, PALETTE, contrast
from dyvte.demo.shapes import SHAPES, outline
from dyvte.demo.world import MIN_CONTRAST, Scene, region, sample_scene

SEEDS = range(200)


def test_same_seed_gives_same_scene() -> None:
    assert [sample_scene(s) for s in SEEDS] == [sample_scene(s) for s in SEEDS]


def test_seeds_differ() -> None:
    assert len({repr(sample_scene(s)) for s in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", [0.0, 0.5, 1.0])
def test_outlines_fit_the_unit_circle(shape: str, form: float) -> None:
    assert max(x * x + y * y for x, y in outline(shape, form)) < 1.22


def test_unknown_shape_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="blob"):
        outline("blob", 0.5)


def _places(scene: Scene) -> list[tuple[float, float, float]]:
    width, height = scene.span
    return [(t.x * width, t.y * height, t.extent / 2) for t in scene.things]


def test_objects_do_not_overlap_and_stay_inside() -> None:
    for seed in SEEDS:
        scene = sample_scene(seed)
        width, height = scene.span
        for x, y, r in _places(scene):
            assert r <= x <= width - r
            assert r <= y <= height - r
        for (ax, ay, ar), (bx, by, br) in combinations(_places(scene), 2):
            assert max(abs(ax - bx), abs(ay - by)) > ar + br


def test_objects_stand_out_from_the_ground() -> None:
    for seed in SEEDS:
        scene = sample_scene(seed)
        for thing in scene.things:
            assert contrast(thing.rgb, scene.background.rgb) > MIN_CONTRAST


def test_constants_of_a_color_are_its_own() -> None:
    owners = [(rgb, name) for name in COLORS for rgb in PALETTE[name].constants]
    assert len({rgb for rgb, _ in owners}) == len(owners)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [(0.1, 0.1, "top left"), (0.5, 0.5, "center"), (0.5, 0.9, "bottom"), (0.9, 0.5, "right")],
)
def test_regions_are_thirds(x: float, y: float, name: str) -> None:
    assert region(x, y) == name
