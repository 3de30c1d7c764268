"""The grammar of `--policies`, by example."""

from __future__ import annotations

import pytest

from dyvte.errors import OptionError
from dyvte.evaluation.settings import OFF, Preset, parse, parse_all
from dyvte.params import ExitOptions, PruneOptions

METHODS = ("fastv", "pyramiddrop", "divprune")
BALANCED = ExitOptions(aggressiveness=0.4)
CALM = ExitOptions(policy="state", aggressiveness=0.2)
PRESETS = {
    "balanced": Preset(BALANCED, BALANCED),
    "calm": Preset(CALM, ExitOptions(policy="off")),
}
HALF = PruneOptions("fastv", layer=2, ratio=0.5)


def options(spec: str) -> list[ExitOptions]:
    return [setting.options for setting in parse(spec, METHODS, PRESETS)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("off", [ExitOptions(policy="off")]),
        ("gate", [ExitOptions(policy="gate")]),
        ("gate:0.1,0.5", [ExitOptions(aggressiveness=0.1), ExitOptions(aggressiveness=0.5)]),
        ("gate:balanced", [BALANCED]),
        ("gate:risk=0.05", [ExitOptions(max_risk=0.05)]),
        ("gate:0.5@3-", [ExitOptions(aggressiveness=0.5, min_layer=3)]),
        ("gate@2-8", [ExitOptions(min_layer=2, max_layer=8)]),
        ("fixed:3", [ExitOptions(policy="fixed", exit_layer=3)]),
        ("fixed:3,5-6", [ExitOptions(policy="fixed", exit_layer=e) for e in (3, 5, 6)]),
        ("state:0.3", [ExitOptions(policy="state", aggressiveness=0.3)]),
        ("state:calm", [CALM]),
        ("vtw", [ExitOptions(policy="vtw")]),
        ("fastv:2/0.5", [ExitOptions(policy="off", prune=HALF)]),
        ("divprune:0.75", [ExitOptions(policy="off", prune=PruneOptions("divprune", ratio=0.75))]),
        ("pyramiddrop", [ExitOptions(policy="off", prune=PruneOptions("pyramiddrop"))]),
        (
            "pyramiddrop:3=0.5/6=0.25",
            [
                ExitOptions(
                    policy="off", prune=PruneOptions("pyramiddrop", stages=((3, 0.5), (6, 0.25)))
                )
            ],
        ),
        ("gate:0.5+fastv:2/0.5", [ExitOptions(aggressiveness=0.5, prune=HALF)]),
    ],
)
def test_a_spec_means(spec: str, expected: list[ExitOptions]) -> None:
    assert options(spec) == expected


def test_every_exit_meets_every_cut_on_one_line_a_cut() -> None:
    settings = parse("gate:0.2,0.5+fastv:2/0.5,3/0.5", METHODS, PRESETS)
    assert [s.name for s in settings] == [
        "gate:0.2+fastv:2/0.5",
        "gate:0.5+fastv:2/0.5",
        "gate:0.2+fastv:3/0.5",
        "gate:0.5+fastv:3/0.5",
    ]
    assert [s.series for s in settings] == ["gate+fastv:2/0.5"] * 2 + ["gate+fastv:3/0.5"] * 2


def test_a_name_is_the_spec_that_gives_the_setting_again() -> None:
    for setting in parse_all(["gate:0.5@3-9+fastv:2/0.5", "fixed:2-4"], METHODS, PRESETS):
        (again,) = parse(setting.name, METHODS, PRESETS)
        assert again.options == setting.options


def test_off_comes_first_and_nothing_comes_twice() -> None:
    settings = parse_all(["fixed:3,4", "off", "fixed:4-5"], METHODS, PRESETS)
    assert settings[0] == OFF
    assert [s.name for s in settings] == ["off", "fixed:3", "fixed:4", "fixed:5"]


def test_a_preset_keeps_its_line_where_a_number_says_the_same() -> None:
    settings = parse_all(["gate:0.4", "gate:balanced"], METHODS, PRESETS)
    assert [s.name for s in settings] == ["off", "gate:0.4", "gate:balanced"]
    assert settings[1].options == settings[2].options


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("", "is not POLICY"),
        ("gate:", "is not POLICY"),
        ("gate:1.5", "aggressiveness must be between 0 and 1"),
        ("gate:bold", "nor a preset (balanced, calm)"),
        ("gate:calm", "is one of 'state', not 'gate'"),
        ("gate:0.5@x", "'x' is not MIN-MAX"),
        ("gate:0.5@8-2", "min_layer 8 is above max_layer 2"),
        ("gate:risk=x", "nor a preset"),
        ("fixed", "is not a layer"),
        ("fixed:a", "nor a preset"),
        ("fixed:3-a", "'3-a' is not a layer"),
        ("fixed:7-3", "'7-3' ends before it begins"),
        ("fixed:3@1-2", 'min_layer has no meaning with policy "fixed"'),
        ("off:1", "aggressiveness has no meaning"),
        ("gate:0.5+dropall", "'dropall' is no pruning method (fastv"),
        ("fastv:2/0.5+gate", "write the exit first"),
        ("fastv:half", "is not LAYER/RATIO"),
        ("fastv:2/1.5", "prune.ratio must be between 0 and 1"),
        ("gate:risk=0.02+fastv", "max_risk cannot be combined with prune"),
    ],
)
def test_a_slip_names_the_spec_and_the_remedy(spec: str, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(spec, METHODS, PRESETS)
    assert caught.value.field == "policies"
    assert repr(spec) in caught.value.message
    assert told in caught.value.message


def test_a_preset_may_mean_something_else_in_conversations() -> None:
    (calm,) = parse("state:calm", METHODS, PRESETS)
    assert (calm.of(conversation=False), calm.of(conversation=True)) == (CALM, OFF.options)
    (plain,) = parse("gate:balanced", METHODS, PRESETS)
    assert plain.of(conversation=True) == BALANCED
