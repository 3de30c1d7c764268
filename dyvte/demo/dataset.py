"""Pictures with questions and answers, in splits that never share a scene.

The one source of demo data for everyone: training draws from `train`, gates are fitted on
`gates`, risk is measured on `calibration`, and numbers are reported on `test`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from dyvte.demo.question import Question
from dyvte.demo.questions import MIX, ask
from dyvte.demo.render import Camera, render
from dyvte.demo.world import Scene, sample_scene

# First scene seed of each split; a split holds ten million scenes.
SPLITS = {"train": 0, "gates": 10_000_000, "calibration": 20_000_000, "test": 30_000_000}


class Sample(NamedTuple):
    """One picture, in its own size, with one question about it."""

    picture: Image.Image
    question: str
    answer: str
    kind: str


def first_seed(split: str) -> int:
    """Seed of the first scene of `split`; ValueError names the splits if there is none."""
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    return SPLITS[split]


def asked_scenes(
    count: int, split: str, questions: int = 1, skip: int = 0, mix: dict[str, float] | None = None
) -> Iterator[tuple[Image.Image, Scene, list[Question]]]:
    """`count` scenes of a split with their picture and `questions` questions each."""
    base = first_seed(split)
    for seed in range(base + skip, base + skip + count):
        scene = sample_scene(seed)
        rng = random.Random(seed * 13 + 5)
        asked = [ask(scene, rng, mix or MIX) for _ in range(questions)]
        yield render(scene, Camera.sample(seed), seed), scene, asked


def samples(
    count: int, split: str = "test", skip: int = 0, mix: dict[str, float] | None = None
) -> Iterator[Sample]:
    """`count` samples of a split, the same on every machine; `skip` leaves out the first ones."""
    for picture, _, (question,) in asked_scenes(count, split, 1, skip, mix):
        yield Sample(picture, question.text, question.answer, question.kind)
