"""Questions: what is answered is true of the scene, found out again by brute force."""

from __future__ import annotations

import random
import re

import pytest

from dyvte.demo.palette import COLORS
from dyvte.demo.question import Question
from dyvte.demo.questions import KINDS, ask, ask_kind, without_picture
from dyvte.demo.references import named
from dyvte.demo.render import PRINT_ID
from dyvte.demo.shapes import SHAPES
from dyvte.demo.world import Scene, sample_scene

CASES = [(seed, sample_scene(seed)) for seed in range(150)]


def _asked(kind: str) -> list[tuple[Scene, Question]]:
    found = [(scene, ask_kind(scene, kind, random.Random(seed))) for seed, scene in CASES]
    return [(scene, question) for scene, question in found if question is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_and_answered(kind: str) -> None:
    asked = _asked(kind)
    assert len(asked) > 20
    assert all(question.answer == question.answer.strip().lower() for _, question in asked)


def test_same_seed_asks_the_same() -> None:
    scene = CASES[3][1]
    assert ask(scene, random.Random(4)) == ask(scene, random.Random(4))


@pytest.mark.parametrize("kind", ["color", "shape", "size"])
def test_attributes_are_those_of_the_object_looked_at(kind: str) -> None:
    for scene, question in _asked(kind):
        if question.looks_at and question.looks_at[0] != PRINT_ID:
            assert question.answer == getattr(scene.things[question.looks_at[0] - 1], kind)
        elif not question.looks_at:
            assert question.answer == "none"


def test_counts_are_counted() -> None:
    names = {"oval": "ellipse", "plus": "cross", "plus sign": "cross", "rhombus": "diamond"}
    for scene, question in _asked("count"):
        text = question.text
        for synonym, name in sorted(names.items(), reverse=True):
            text = text.replace(synonym, name)
        text = text.replace("grey", "gray")
        shapes = [s for s in SHAPES if re.search(rf"\b{s}(e?s)\b", text)]
        colors = [c for c in COLORS if re.search(rf"\b{c}\b", text)]
        things = [t for t in scene.things if not shapes or t.shape in shapes]
        things = [t for t in things if not colors or t.color in colors]
        assert question.answer == str(len(things)), question.text


def test_presence_is_balanced_and_points_at_its_objects() -> None:
    asked = _asked("presence")
    yes = [question for _, question in asked if question.answer == "yes"]
    assert all(question.looks_at for question in yes)
    assert 0.3 < len(yes) / len(asked) < 0.7


def test_positions_are_regions() -> None:
    for scene, question in _asked("position"):
        if question.looks_at:
            assert question.answer == scene.things[question.looks_at[0] - 1].region


def test_descriptions_name_every_object() -> None:
    for scene, question in _asked("describe"):
        for thing in scene.things:
            assert f"{thing.color} {thing.shape} at the {thing.region}" in question.answer
        assert not scene.printed or scene.printed.text in question.answer


def test_relations_with_a_place_agree_with_the_places() -> None:
    for scene, question in _asked("relation"):
        a, b = (scene.things[owner - 1] for owner in question.looks_at)
        if " left of" in question.text:
            assert question.answer == ("yes" if a.x < b.x else "no")
        if "bigger, the" in question.text:
            assert question.answer == named(max((a, b), key=lambda t: t.extent))


def test_blind_questions_need_no_picture() -> None:
    questions = [without_picture(random.Random(seed)) for seed in range(50)]
    assert not any(question.needs_picture or question.looks_at for question in questions)
