"""Pictures: any size and aspect, and patch owners that point at the right object."""

from __future__ import annotations

import numpy as np
import pytest

from dyvte.demo.render import (
    GRID,
    PAD,
    PIXELS,
    PRINT_ID,
    Camera,
    ink,
    masks,
    patch_owners,
    render,
    to_square,
)
from dyvte.demo.world import sample_scene


@pytest.mark.parametrize("side", [64, 192, 500])
def test_longest_side_is_the_cameras(side: int) -> None:
    for seed in range(5):
        assert max(render(sample_scene(seed), Camera(side)).size) == side


def test_rendering_repeats() -> None:
    for seed in range(10):
        scene, camera = sample_scene(seed), Camera.sample(seed)
        first, second = (np.asarray(render(scene, camera, seed)) for _ in range(2))
        assert (first == second).all()


def test_square_is_padded_with_gray() -> None:
    wide = next(s for s in map(sample_scene, range(99)) if s.aspect > 1.4)
    square = to_square(render(wide, Camera(200)))
    assert square.shape == (PIXELS, PIXELS, 3)
    assert (square[0] == PAD).all()
    assert (square[-1] == PAD).all()


def test_every_object_owns_a_patch_near_its_middle() -> None:
    for seed in range(60):
        scene = sample_scene(seed)
        owners, longest = patch_owners(scene), max(scene.span)
        for i, thing in enumerate(scene.things):
            rows, columns = np.nonzero(owners == i + 1)
            assert len(rows)
            x = (columns.mean() + 0.5) / GRID - (1 - scene.span[0] / longest) / 2
            assert abs(x - thing.x * scene.span[0] / longest) < 1 / GRID


def test_ink_lies_on_owned_patches_mostly() -> None:
    for seed in range(20):
        scene = sample_scene(seed)
        cells = ink(scene).sum(1)
        owned = patch_owners(scene).reshape(-1) > 0
        if cells.sum():
            assert cells[owned].sum() > 0.6 * cells.sum()


def test_masks_are_there_for_things_alone() -> None:
    scene = next(s for s in map(sample_scene, range(99)) if s.printed and s.things)
    table = masks(scene)
    assert table[1].any()
    assert not table[0].any()
    assert not table[PRINT_ID].any()
