"""Scenes of a kind that the demo model was never trained on, for measuring distribution shift.

Owns two changes to a scene before questions are asked about it, so that the answers stay right:
a ground that training never draws, or objects below its range of sizes. Knows no pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from dyvte.demo.palette import RGB, contrast, pastel, shade
from dyvte.demo.world import SIZES, Background, Scene

# Training's grain has a standard deviation of 1..9 levels, and its gradients stay in one hue.
GRAIN = (18.0, 30.0)
# Training's smallest object measures 0.12 units.
TINY = (0.07, 0.10)
ENOUGH = 120.0
TRIES = 200


def other_background(scene: Scene, rng: random.Random) -> Scene:
    """A gradient between two unrelated colours under coarse grain; the objects stay visible."""
    inks = [thing.rgb for thing in scene.things]
    inks += [scene.printed.rgb] if scene.printed else []
    ends = max((_ends(rng) for _ in range(TRIES)), key=lambda pair: _worst(pair, inks))
    angle, grain = rng.uniform(0, 360), rng.uniform(*GRAIN)
    return replace(scene, background=Background(*ends, angle, grain, None))


def tiny_things(scene: Scene, rng: random.Random) -> Scene:
    """Every object is small, and smaller than any in training; places stay."""
    size = next(iter(SIZES))
    things = (replace(t, size=size, extent=rng.uniform(*TINY)) for t in scene.things)
    return replace(scene, things=tuple(things))


SHIFTS: dict[str, Callable[[Scene, random.Random], Scene]] = {
    "background": other_background,
    "size": tiny_things,
}


def _ends(rng: random.Random) -> tuple[RGB, RGB]:
    return pastel(rng), shade(rng.choice(("gray", "brown", "cyan", "pink")), rng)


def _worst(ends: tuple[RGB, RGB], inks: list[RGB]) -> float:
    """The smallest contrast of an object with either end; enough is enough."""
    return min((ENOUGH, *(contrast(end, ink) for end in ends for ink in inks)))
