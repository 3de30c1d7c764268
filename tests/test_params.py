"""What a request may ask for, and what is refused with a name, a value and a remedy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyvte.errors import DyvteError, OptionError, PromptError
from dyvte.params import ExitOptions, PruneOptions, SamplingParams
from dyvte.prompt import IMAGE, Prompt, VisualSpan


def test_options_cannot_be_changed_after_they_were_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 3.0  # type: ignore[misc]


def test_temperature_zero_is_greedy() -> None:
    assert SamplingParams(temperature=0).greedy
    assert not SamplingParams(temperature=0.1).greedy


@pytest.mark.parametrize(
    ("given", "kept"), [("END", ("END",)), (None, ()), (["a", "b"], ("a", "b"))]
)
def test_stop_is_one_string_or_several(given: Any, kept: tuple[str, ...]) -> None:
    assert SamplingParams(stop=given).stop == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("min_p", 1.5),
        ("n", 0),
        ("min_tokens", -1),
        ("stop", [""]),
        ("stop", [7]),
    ],
)
def test_a_sampling_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(OptionError) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field


def test_more_alternatives_than_allowed_are_refused_by_openais_name() -> None:
    with pytest.raises(OptionError, match=r"0\.\.20") as refused:
        SamplingParams(logprobs=21)
    assert refused.value.field == "top_logprobs"


def test_min_tokens_fits_into_max_tokens() -> None:
    assert SamplingParams(max_tokens=4, min_tokens=4).min_tokens == 4
    with pytest.raises(OptionError, match="exceeds max_tokens 4"):
        SamplingParams(max_tokens=4, min_tokens=5)


def test_the_default_asks_the_gates_with_the_papers_rule_left_open() -> None:
    assert ExitOptions() == ExitOptions(policy="gate", aggressiveness=None)


def test_nan_aggressiveness_is_allowed_because_it_keeps_the_image() -> None:
    a = ExitOptions(aggressiveness=math.nan).aggressiveness
    assert a is not None
    assert math.isnan(a)


@given(st.floats(min_value=0.0, max_value=1.0))
def test_any_aggressiveness_from_0_to_1_is_accepted(a: float) -> None:
    assert ExitOptions(aggressiveness=a).aggressiveness == a


@given(st.floats(allow_nan=False).filter(lambda a: not 0.0 <= a <= 1.0))
def test_any_other_aggressiveness_is_refused(a: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1") as refused:
        ExitOptions(aggressiveness=a)
    assert refused.value.field == "aggressiveness"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"policy": "fixed"}, "exit_layer"),
        ({"exit_layer": 3}, "exit_layer"),
        ({"policy": "off", "exit_layer": 3}, "exit_layer"),
        ({"policy": "fixed", "exit_layer": -1}, "exit_layer"),
        ({"policy": "fixed", "exit_layer": 3, "aggressiveness": 0.5}, "aggressiveness"),
        ({"policy": "off", "aggressiveness": 0.5}, "aggressiveness"),
        ({"policy": "fixed", "exit_layer": 3, "min_layer": 2}, "min_layer"),
        ({"policy": "off", "max_layer": 2}, "max_layer"),
        ({"min_layer": 5, "max_layer": 4}, "min_layer"),
        ({"max_risk": 1.5}, "max_risk"),
        ({"max_risk": 0.01, "aggressiveness": 0.5}, "max_risk"),
        ({"max_risk": 0.01, "min_layer": 2}, "max_risk"),
        ({"max_risk": 0.01, "prune": {"method": "fastv"}}, "max_risk"),
        ({"aggressiveness": "high"}, "aggressiveness"),
        ({"aggressiveness": True}, "aggressiveness"),
        ({"policy": ""}, "policy"),
        ({"agressiveness": 0.5}, "agressiveness"),
        ({"prune": {"method": "fastv", "rate": 0.5}}, "prune.rate"),
        ({"prune": {"method": "fastv", "ratio": 2}}, "prune.ratio"),
        ({"prune": "fastv"}, "prune"),
    ],
)
def test_exit_settings_that_do_not_fit_are_refused_by_name(
    options: dict[str, object], field: str
) -> None:
    with pytest.raises(OptionError) as refused:
        ExitOptions.of(options)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


def test_a_mapping_and_the_dataclass_mean_the_same() -> None:
    wanted = ExitOptions(
        aggressiveness=0.75, min_layer=2, prune=PruneOptions("fastv", layer=2, ratio=0.5)
    )
    as_mapping = {
        "aggressiveness": 0.75,
        "min_layer": 2,
        "prune": {"method": "fastv", "layer": 2, "ratio": 0.5},
    }
    assert ExitOptions.of(as_mapping) == wanted
    assert ExitOptions.of(wanted) is wanted


def test_stages_of_a_staged_method_are_kept_as_pairs() -> None:
    prune = PruneOptions.of({"method": "pyramid", "stages": [[8, 0.5], [16, 0.25]]})
    assert prune.stages == ((8, 0.5), (16, 0.25))


@pytest.mark.parametrize(
    "stages",
    [
        *([], "abc", 5, [[1]], [[2.7, 0.5]], [["a", 0.5]], [[1, None]], [[True, 0.5]]),
        *([[-1, 0.5]], [[math.inf, 0.5]], [[math.nan, 0.5]], [[2, "half"]]),
    ],
)
def test_stages_that_are_no_pairs_are_refused_by_name(stages: Any) -> None:
    """An infinite layer raised OverflowError, 2.7 was taken as 2, none at all pruned nothing."""
    with pytest.raises(OptionError) as refused:
        PruneOptions("pyramiddrop", stages=stages)
    assert refused.value.field == "prune.stages"


def test_every_refusal_is_one_of_ours_and_a_value_error() -> None:
    assert issubclass(OptionError, DyvteError)
    assert issubclass(OptionError, ValueError)


def test_a_prompt_counts_its_image_placeholders() -> None:
    assert Prompt([1, IMAGE, 5, IMAGE]).num_images == 2
    assert Prompt([1, 5]).num_images == 0


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="at least one token"):
        Prompt([])


def test_a_visual_span_has_the_length_of_its_rows() -> None:
    assert len(VisualSpan(35, 611)) == 576
