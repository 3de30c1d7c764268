"""Answers of many settings for few runs are the answers of as many runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import dyvte
from dyvte.evaluation.settings import Preset, Setting, parse_all
from dyvte.evaluation.sharing import shared, straight
from dyvte.exits.offers import Offers
from dyvte.exits.state import StateScale
from dyvte.exits.vtw import VtwRule
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from tests import tiny

SAMPLING = SamplingParams(max_tokens=4, temperature=0)
PRESETS = {"calm": Preset(ExitOptions(aggressiveness=0.4), ExitOptions(aggressiveness=0.6))}
SPECS = (
    *("gate:0,0.3,0.5,0.7,1", "gate:0.5@2-3", "gate:calm", "fixed:0-3"),
    *("fastv:2/0.5", "gate:0.4,0.6+fastv:2/0.5", "pyramiddrop"),
)


def settings(*specs: str) -> list[Setting]:
    return parse_all(specs or SPECS, ("fastv", "pyramiddrop"), PRESETS)


def questions() -> list[Prompt]:
    prompts = [tiny.prompt(seed, images=images) for seed, images in enumerate((1, 1, 2, 0, 1, 1))]
    return [*prompts, replace(tiny.prompt(9), user_turns=2)]


def test_shared_answers_are_the_straight_ones(tiny_model: dyvte.Model) -> None:
    one = straight(tiny_model, questions(), settings(), SAMPLING)
    other = shared(tiny_model, questions(), settings(), SAMPLING)
    exits = {answer.exit_layer for row in one for answer in row}
    assert len(exits) > 3, "the gates of the tiny model should disagree"
    for setting, straight_row, shared_row in zip(settings(), one, other, strict=True):
        assert shared_row == straight_row, setting.name


def test_no_outcome_is_generated_twice(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    real = dyvte.generate

    def counted(model: Any, prompts: Any, sampling: Any, exits: Any) -> Any:
        ran.extend(exits)
        return real(model, prompts, sampling, exits)

    monkeypatch.setattr("dyvte.evaluation.sharing.generate", counted)
    asked = questions()[:2]
    shared(tiny_model, asked, settings("gate:0.1,0.3,0.5,0.7,0.9", "fixed:0-3"), SAMPLING)
    # Each question once while its gates are read (which is no exit as well), and four exits.
    assert len(ran) == 2 * (1 + 4)


def test_what_is_no_gate_runs_as_it_is(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        name = "other"

    monkeypatch.setattr("dyvte.evaluation.sharing.exit_of", lambda policy: Other())
    one, two = shared(tiny_model, questions()[:1], settings("fixed:1"), SAMPLING)
    assert (one[0].exit_layer, two[0].exit_layer) == (None, 1)


def test_policies_of_a_card_are_shared_or_run_as_they_are(tiny_model: dyvte.Model) -> None:
    layers = tuple(range(tiny.LAYERS))
    scale = StateScale("mass_last", layers, (-1.0,) * len(layers), (-1.0, -1.5, -1.0, -0.5))
    rule = VtwRule(k=2, eta=0.003, layers=(0, 1), kl=(1.0, 0.001))
    model = replace(tiny_model, offers=Offers(state=scale, vtw=rule))
    wanted = settings("state:0.3,0.5,0.7", "vtw", "state:0.5+fastv:2/0.5", "vtw+pyramiddrop")
    one = straight(model, questions(), wanted, SAMPLING)
    other = shared(model, questions(), wanted, SAMPLING)
    for setting, straight_row, shared_row in zip(wanted, one, other, strict=True):
        assert shared_row == straight_row, setting.name
    assert {answer.exit_layer for answer in one[4]} == {1, None}  # vtw: k − 1, and no image
