"""From what a request asks to what its sequence does, or why not."""

from __future__ import annotations

import pytest

from dyvte.errors import OptionError
from dyvte.exits.policy import ExitPolicy, Fixed, Gate, Off
from dyvte.exits.resolve import Grants, resolve
from dyvte.params import ExitOptions, PruneOptions

GATED = frozenset({0, 2, 4})
WITH, WITHOUT = Grants(6, GATED), Grants(6)


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (ExitOptions(), Gate(0.5, GATED)),
        (ExitOptions(aggressiveness=0.9), Gate(0.9, GATED)),
        (ExitOptions(aggressiveness=0.0), Gate(0.0, GATED)),
        (ExitOptions(min_layer=2, max_layer=5), Gate(0.5, GATED, 2, 5)),
        (ExitOptions(policy="fixed", exit_layer=5), Fixed(5)),
        (ExitOptions(policy="off"), Off()),
    ],
)
def test_options_become_policies(options: ExitOptions, policy: ExitPolicy) -> None:
    assert resolve(options, WITH) == policy


@pytest.mark.parametrize(
    ("options", "grants", "field"),
    [
        (ExitOptions(), WITHOUT, "policy"),
        (ExitOptions(policy="mystery"), WITH, "policy"),
        (ExitOptions(policy="fixed", exit_layer=6), WITH, "exit_layer"),
        (ExitOptions(min_layer=6), WITH, "min_layer"),
        (ExitOptions(max_layer=6), WITH, "max_layer"),
        (ExitOptions(max_risk=0.01), WITH, "max_risk"),
        (ExitOptions(prune=PruneOptions("random")), WITH, "prune.method"),
    ],
)
def test_what_a_model_cannot_do_names_the_field(
    options: ExitOptions, grants: Grants, field: str
) -> None:
    with pytest.raises(OptionError) as caught:
        resolve(options, grants)
    assert caught.value.field == field


def test_a_model_without_gates_says_how_to_get_some() -> None:
    with pytest.raises(OptionError, match="--gates"):
        resolve(ExitOptions(), WITHOUT)


def test_defaults_are_the_papers_where_there_are_gates() -> None:
    assert resolve(WITH.default, WITH) == Gate(0.5, GATED)
    assert resolve(WITHOUT.default, WITHOUT) == Off()
    assert WITH.policies == ("gate", "fixed", "off")
    assert WITHOUT.policies == ("fixed", "off")
