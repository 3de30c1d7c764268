"""What a card offers, and what a model does by default with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dyvte
from dyvte.errors import ModelError, OptionError
from dyvte.exits.binomial import upper_bound
from dyvte.exits.calibration import Calibration, Curve, Point
from dyvte.exits.files import GateCard, write_gates
from dyvte.exits.grants import Grants
from dyvte.exits.offers import Offers
from dyvte.exits.policy import Fixed, Gate, Off
from dyvte.exits.presets import presets_for
from dyvte.exits.resolve import resolve, settle
from dyvte.exits.state import State, StateScale
from dyvte.exits.vtw import Vtw, find_k, first_k
from dyvte.params import ExitOptions
from tests import tiny

GATED = frozenset({1, 2})
SCALE = {"signal": "pull_last", "layers": [0, 1], "weight": [-1.0, -1.0], "bias": [0.5, 1.0]}
VTW = {"k": 3, "eta": 0.003, "layers": [0, 1, 2], "kl": [1.0, 0.1, 0.001]}


def curve(samples: int, *points: tuple[float, int]) -> Curve:
    return Curve(
        samples, tuple(Point(a, k, upper_bound(k, samples, 0.95), 0.4, 0.3) for a, k in points)
    )


GOOD = curve(700, (0.3, 0), (0.5, 9))
LAYERS = curve(700, (2, 0), (1, 5), (0, 400))


def card(default: str | None, conversation: bool = False, **curves: Curve) -> GateCard:
    kinds = ("single", "conversation") if conversation else ("single",)
    found = {name: dict.fromkeys(kinds, curve) for name, curve in curves.items()}
    whole = Calibration(0.95, found, default)
    presets = presets_for(default) if default else {}
    return GateCard(
        tiny.HIDDEN,
        tiny.LAYERS,
        (),
        presets=presets,
        calibration=whole.as_json(),
        state=SCALE,
        vtw=VTW,
    )


def grants(source: GateCard | None, gated: frozenset[int] = frozenset()) -> Grants:
    written = json.loads(json.dumps(source, default=lambda c: vars_of(c))) if source else None
    again = GateCard(**{**written, "layers": tuple(written["layers"])}) if written else None
    return Grants(4, gated, Offers.of(again))


def vars_of(value: GateCard) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


GATE, STATE = ExitOptions(aggressiveness=0.3), ExitOptions("state", aggressiveness=0.3)
STAY, STATE_STAYS = ExitOptions(aggressiveness=0.0), ExitOptions("state", aggressiveness=0.0)
OFF, PAPER = ExitOptions("off"), ExitOptions(aggressiveness=0.5)
NONE: frozenset[int] = frozenset()


@pytest.mark.parametrize(
    ("card", "gated", "default", "in_conversation"),
    [
        # Gates with a calibration: balanced. Without one: the paper's rule.
        (card("gate", gate=GOOD), GATED, GATE, STAY),
        (card("gate", True, gate=GOOD), GATED, GATE, GATE),
        (None, GATED, PAPER, PAPER),
        # No gates, but something that was measured: that.
        (card("state", state=GOOD), NONE, STATE, STATE_STAYS),
        (card("fixed", fixed=LAYERS), NONE, ExitOptions("fixed", exit_layer=1), OFF),
        # A measured state counts before gates that nobody measured.
        (card("state", state=GOOD), GATED, STATE, STATE_STAYS),
        # Neither: off.
        (None, NONE, OFF, OFF),
        (card(None), NONE, OFF, OFF),
    ],
)
def test_the_default_is_what_was_measured(
    card: GateCard | None, gated: frozenset[int], default: ExitOptions, in_conversation: ExitOptions
) -> None:
    found = grants(card, gated)
    assert found.default == default
    assert found.default_for(conversation=True) == in_conversation
    for conversation in (False, True):
        resolve(found.default_for(conversation), found, conversation)


def test_policies_are_those_that_there_is_something_for() -> None:
    assert grants(None).policies == ("fixed", "off")
    assert grants(card("gate", gate=GOOD), GATED).policies == (
        "gate",
        "state",
        "vtw",
        "fixed",
        "off",
    )


def test_options_become_the_calibrated_policies() -> None:
    offered = grants(card("gate", gate=GOOD, state=GOOD), GATED)
    scale = StateScale("pull_last", (0, 1), (-1.0, -1.0), (0.5, 1.0))
    for options, policy in (
        (ExitOptions(max_risk=0.005), Gate(0.3, GATED)),
        (ExitOptions(max_risk=0.05), Gate(0.5, GATED)),
        (ExitOptions("state", max_risk=0.05), State(0.5, scale)),
        (ExitOptions("state", aggressiveness=0.9, min_layer=1), State(0.9, scale, 1)),
        (ExitOptions("state"), State(0.3, scale)),  # the promise of balanced
        (ExitOptions("vtw"), Vtw(2)),
        (ExitOptions("vtw", min_layer=3), Vtw(3)),
        (ExitOptions("fixed", exit_layer=1), Fixed(1)),
        (ExitOptions("off"), Off()),
    ):
        assert resolve(options, offered) == policy
    assert resolve(ExitOptions("state"), offered, conversation=True) == State(0.0, scale)
    assert Vtw(2).name == "vtw"


def test_settled_options_say_the_values_in_force() -> None:
    offered = grants(card("gate", gate=GOOD), GATED)
    assert settle(ExitOptions(max_risk=0.02), offered) == ExitOptions(aggressiveness=0.3)
    assert settle(ExitOptions(min_layer=2), offered) == ExitOptions(aggressiveness=0.5, min_layer=2)


@pytest.mark.parametrize(
    ("options", "conversation", "said"),
    [
        (ExitOptions(max_risk=0.001), False, "the lowest is 0.00427"),
        (ExitOptions(max_risk=0.02), True, "covers single turns"),
        (ExitOptions("state", max_risk=0.02), False, "dyvte calibrate"),
    ],
)
def test_a_risk_that_nobody_measured_is_an_error(
    options: ExitOptions, conversation: bool, said: str
) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        resolve(options, grants(card("gate", gate=GOOD), GATED), conversation)
    assert caught.value.field == "max_risk"


def test_what_a_calibration_would_bring_is_told() -> None:
    for policy in ("state", "vtw"):
        with pytest.raises(OptionError, match="dyvte collect, then dyvte calibrate"):
            resolve(ExitOptions(policy), grants(None))


@pytest.mark.parametrize("field", ["aggressiveness", "max_layer", "max_risk"])
def test_vtw_heeds_no_knob(field: str) -> None:
    with pytest.raises(OptionError, match='no meaning with policy "vtw"'):
        ExitOptions("vtw", **{field: 1})  # type: ignore[arg-type]


def test_records_tell_the_promise_and_the_measurement() -> None:
    records = grants(card("gate", gate=GOOD), GATED).records()
    assert list(records) == ["safe", "balanced", "aggressive"]
    safe = records["safe"]
    assert (safe.max_risk, safe.confidence, safe.conversation) == (0.005, 0.95, None)
    assert safe.single is not None
    assert (safe.single.samples, safe.single.changed, safe.single.prefill_saved) == (700, 0, 0.4)
    assert grants(None, GATED).records() == {}


@pytest.mark.parametrize(
    "broken",
    [
        {"calibration": {"confidence": 0.95}},
        {"state": {**SCALE, "signal": "mood"}},
        {"state": {**SCALE, "weight": [1.0]}},
        {"state": {"signal": "pull_last"}},
        {"vtw": {"k": 3}},
        {"vtw": {"k": "late", "eta": 0.003, "layers": [], "kl": []}},
        {"presets": ["safe"]},
        {"presets": {"safe": {"aggressiveness": 7}}},
        {"presets": {"safe": 5}},
    ],
)
def test_a_broken_card_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="the card cannot be read"):
        Offers.of(GateCard(4, 4, (), **broken))


def test_a_loaded_model_does_as_its_card_says(tmp_path: Path, tiny_folder: Path) -> None:
    bank = tiny.gates(layers=(1, 2))
    whole = card("gate", gate=curve(700, (1.0, 0)))
    write_gates(tmp_path, bank, whole)
    model = dyvte.load(tiny_folder, gates=tmp_path, device="cpu", dtype="float32")
    prompt = tiny.prompt(0)
    assert tiny.alone(model, prompt).exit_layer == 1
    assert tiny.alone(model, prompt, exits=ExitOptions(max_risk=0.01)).exit_layer == 1
    later = dyvte.Prompt(prompt.token_ids, prompt.images, user_turns=2)
    assert tiny.alone(model, later).exit_layer is None
    with pytest.raises(OptionError, match="covers single turns"):
        tiny.alone(model, later, exits=ExitOptions(max_risk=0.01))
    assert tiny.alone(model, prompt, exits=ExitOptions("vtw")).exit_layer == 2


def test_a_prompt_counts_the_users_turns(tiny_model: dyvte.Model) -> None:
    def said(role: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": "Hm."}]}

    turns = [said("user"), said("assistant"), said("user")]
    assert tiny_model.prompt(turns).user_turns == 2
    assert tiny_model.prompt(turns).conversation
    assert not tiny_model.prompt(turns[:1]).conversation


def test_vtw_looks_from_a_share_of_the_depth_on() -> None:
    assert [first_k(depth) for depth in (32, 40, 12, 6, 2)] == [5, 6, 2, 1, 1]
    kl = [0.001] * 31 + [0.0]
    rule = find_k(range(32), kl, 32, 0.003)
    assert rule is not None
    assert rule.k == 5
    assert find_k(range(32), [1.0] * 31 + [0.0], 32, 0.003) is None  # the last layer saves nothing
