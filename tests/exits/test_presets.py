"""What ``max_risk`` and the presets mean on a measured model, and on one that nobody measured."""

from __future__ import annotations

from typing import Any

import pytest

from dyvte.errors import OptionError
from dyvte.exits.binomial import upper_bound
from dyvte.exits.calibration import Calibration, Curve, Point
from dyvte.exits.presets import (
    Measured,
    preset_options,
    presets_for,
    record,
    with_risk,
)
from dyvte.params import ExitOptions


def curve(samples: int, *points: tuple[float, int]) -> Curve:
    rows = (
        Point(setting, k, upper_bound(k, samples, 0.95), 0.1 * i, 0.05 * i)
        for i, (setting, k) in enumerate(points, start=1)
    )
    return Curve(samples, tuple(rows))


GATE = curve(1000, (0.2, 0), (0.4, 9), (0.5, 30), (0.9, 200))
FEW = curve(200, (0.3, 0), (0.5, 9))
FIXED = curve(1000, (5, 0), (4, 8), (3, 30), (2, 300))
MEASURED = Calibration(0.95, {"gate": {"single": GATE, "conversation": FEW}}, "gate")
ONLY_SINGLE = Calibration(0.95, {"gate": {"single": GATE}, "fixed": {"single": FIXED}}, "gate")


@pytest.mark.parametrize(
    ("risk", "conversation", "aggressiveness"),
    [(0.005, False, 0.2), (0.02, False, 0.4), (0.05, False, 0.5), (1.0, False, 0.9)],
)
def test_a_risk_becomes_the_boldest_aggressiveness_that_holds_it(
    risk: float, conversation: bool, aggressiveness: float
) -> None:
    found = with_risk(ExitOptions(max_risk=risk), MEASURED, conversation)
    assert found == ExitOptions(aggressiveness=aggressiveness)


def test_single_turns_and_conversations_are_measured_apart() -> None:
    asked = ExitOptions(max_risk=0.02)
    assert with_risk(asked, MEASURED, conversation=True).aggressiveness == 0.3
    with pytest.raises(OptionError, match="covers single turns and this is a conversation"):
        with_risk(asked, ONLY_SINGLE, conversation=True)


def test_a_risk_that_the_most_careful_setting_breaks_is_no_exit() -> None:
    bad = Calibration(0.95, {"gate": {"single": curve(1000, (0.1, 50))}})
    assert with_risk(ExitOptions(max_risk=0.01), bad, False) == ExitOptions(aggressiveness=0.0)


def test_a_risk_that_the_samples_cannot_prove_names_the_lowest_that_they_can() -> None:
    with pytest.raises(
        OptionError, match=r"200 calibration samples can prove.* 0\.01487"
    ) as caught:
        with_risk(ExitOptions(max_risk=0.005), MEASURED, conversation=True)
    assert caught.value.field == "max_risk"
    lowest = float(caught.value.message.split("the lowest is ")[1].split()[0])
    assert with_risk(ExitOptions(max_risk=lowest), MEASURED, True).aggressiveness == 0.3


@pytest.mark.parametrize(
    ("calibration", "policy", "said"),
    [
        (None, "gate", "this model's exits carry no calibration"),
        (MEASURED, "state", 'policy "state" carries no calibration'),
    ],
)
def test_what_nobody_measured_says_what_to_run(
    calibration: Calibration | None, policy: str, said: str
) -> None:
    with pytest.raises(OptionError, match=f"{said}.*dyvte calibrate"):
        with_risk(ExitOptions(policy, max_risk=0.02), calibration, False)


def test_options_without_a_risk_are_left_alone() -> None:
    asked = ExitOptions(aggressiveness=0.7, min_layer=2)
    assert with_risk(asked, None, True) is asked


@pytest.mark.parametrize(
    ("preset", "single", "conversation"),
    [
        ({"aggressiveness": 0.5}, ExitOptions(aggressiveness=0.5), ExitOptions(aggressiveness=0.5)),
        ({"max_risk": 0.02}, ExitOptions(aggressiveness=0.4), ExitOptions(aggressiveness=0.0)),
        ({"max_risk": 1e-4}, ExitOptions(aggressiveness=0.0), ExitOptions(aggressiveness=0.0)),
        (
            {"policy": "fixed", "max_risk": 0.02},
            ExitOptions("fixed", exit_layer=4),
            ExitOptions("off"),
        ),
        ({"policy": "fixed", "max_risk": 1e-4}, ExitOptions("off"), ExitOptions("off")),
    ],
)
def test_a_preset_that_nothing_proves_keeps_the_image(
    preset: dict[str, Any], single: ExitOptions, conversation: ExitOptions
) -> None:
    assert preset_options(preset, ONLY_SINGLE, False) == single
    assert preset_options(preset, ONLY_SINGLE, True) == conversation


def test_presets_of_a_policy() -> None:
    assert presets_for("gate") == {
        "safe": {"policy": "gate", "max_risk": 0.005},
        "balanced": {"policy": "gate", "max_risk": 0.02},
        "aggressive": {"policy": "gate", "aggressiveness": 0.5},
    }
    own = presets_for("gate", {"safe": 0.001, "balanced": 0.004})
    assert own["balanced"] == {"policy": "gate", "max_risk": 0.004}
    assert presets_for("fixed")["aggressive"] == {"policy": "fixed", "max_risk": 0.05}


def test_a_preset_tells_what_was_measured() -> None:
    safe = record({"policy": "gate", "max_risk": 0.005}, MEASURED)
    assert (safe.max_risk, safe.confidence) == (0.005, 0.95)
    assert safe.single == Measured(1000, 0, upper_bound(0, 1000, 0.95), 0.1, 0.05)
    assert safe.conversation == Measured(200, 0, 0.0, 0.0, 0.0)  # never exits: too few samples
    bold = record({"policy": "gate", "aggressiveness": 0.5}, ONLY_SINGLE)
    assert bold.max_risk is None
    assert bold.single is not None
    assert bold.single.changed == 30
    assert bold.conversation is None
