"""Body, headers, alias, server default: the first that is present counts whole; then the caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from starlette.datastructures import Headers

from dyvte.params import ExitOptions
from server.api.errors import ApiError
from server.api.exits import choose_exits
from server.api.validation import parse_chat
from server.settings import Settings
from tests.server.examples import body
from tests.server.fake_engine import INFO, FakeEngine

Object = Mapping[str, object]


def chosen(
    dyvte: Object | None = None,
    headers: dict[str, str] | None = None,
    model: str = "demo",
    engine: FakeEngine | None = None,
    messages: list[dict[str, str]] | None = None,
    **settings: Any,
) -> ExitOptions:
    said = {"messages": messages} if messages else {}
    request = parse_chat({**body(), **said, "model": model, "dyvte": dyvte})
    operator = Settings.model_validate(settings)
    return choose_exits(request, Headers(headers or {}), engine or FakeEngine(), operator)


def refused(dyvte: Object | None = None, **where: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chosen(dyvte, **where)
    return caught.value


def test_the_body_counts_whole_before_headers_and_alias() -> None:
    exits = chosen({"min_layer": 1}, {"X-DyVTE-Aggressiveness": "0.9"}, "demo:aggressive")
    assert exits == ExitOptions(aggressiveness=0.5, min_layer=1)


def test_headers_count_before_the_alias() -> None:
    assert chosen(None, {"X-DyVTE-Policy": "off"}, "demo:aggressive").policy == "off"
    assert chosen(None, {"x-dyvte-aggressiveness": "0.9"}, "demo:off").aggressiveness == 0.9


def test_the_alias_counts_before_the_default() -> None:
    assert chosen(model="demo:safe", default_exits="off").aggressiveness == 0.25


@pytest.mark.parametrize("nothing", [{}, {"policy": None}, {"report": "full"}])
def test_an_object_that_says_nothing_about_exits_is_not_present(nothing: Object) -> None:
    assert chosen(nothing, model="demo:off").policy == "off"


def test_the_operator_names_the_default() -> None:
    assert chosen(default_exits="aggressive").aggressiveness == 0.75
    assert chosen(default_exits='{"policy": "fixed", "exit_layer": 3}').exit_layer == 3
    assert chosen() == INFO.default_exits


@pytest.mark.parametrize(
    ("dyvte", "param"),
    [
        ({"exit_layer": 2}, "dyvte.exit_layer"),
        ({"policy": "fixed"}, "dyvte.exit_layer"),
        ({"policy": "fixed", "exit_layer": -1}, "dyvte.exit_layer"),
        ({"policy": "fixed", "exit_layer": 2, "aggressiveness": 0.5}, "dyvte.aggressiveness"),
        ({"policy": "off", "min_layer": 1}, "dyvte.min_layer"),
        ({"policy": "off", "max_risk": 0.1}, "dyvte.max_risk"),
        ({"max_risk": 0.1, "aggressiveness": 0.1}, "dyvte.max_risk"),
        ({"max_risk": 0.1, "max_layer": 3}, "dyvte.max_risk"),
        ({"max_risk": 0.1, "prune": {"method": "fastv"}}, "dyvte.max_risk"),
        ({"max_risk": 0.1}, "dyvte.max_risk"),  # no calibration
        ({"aggressiveness": 1.1}, "dyvte.aggressiveness"),
        ({"min_layer": 3, "max_layer": 2}, "dyvte.min_layer"),
        ({"policy": "nonsense"}, "dyvte.policy"),
        ({"prune": {"method": "fastv", "ratio": 2}}, "dyvte.prune.ratio"),
    ],
)
def test_what_does_not_fit_together_is_a_400(dyvte: Object, param: str) -> None:
    error = refused(dyvte)
    assert (error.status, error.detail["param"]) == (400, param)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-DyVTE-Aggressiveness": "much"},
        {"X-DyVTE-Aggressiveness": "2"},
        {"X-DyVTE-Aggressiveness": ""},
        {"X-DyVTE-Policy": "nonsense"},
        {"X-DyVTE-Exit-Layer": "3"},
        {"X-DyVTE-Max-Risk": "0.01"},
    ],
)
def test_a_bad_header_is_a_400(headers: dict[str, str]) -> None:
    assert refused(headers=headers).status == 400


def test_asking_gates_of_a_model_without_them_says_that_there_are_none() -> None:
    bare = FakeEngine(
        info=replace(
            INFO, has_gates=False, policies=("fixed", "off"), default_exits=ExitOptions("off")
        )
    )
    for dyvte in ({"policy": "gate"}, {"aggressiveness": 0.5}, {"min_layer": 1}):
        error = refused(dyvte, engine=bare)
        assert "no gates" in str(error)
    assert chosen({"prune": {"method": "fastv"}}, engine=bare).policy == "off"


def test_caps_bound_what_a_request_may_ask() -> None:
    caps: dict[str, Any] = {"max_aggressiveness": 0.4, "min_exit_layer": 2}
    assert chosen({"aggressiveness": 0.9}, **caps) == ExitOptions(aggressiveness=0.4, min_layer=2)
    assert chosen({"aggressiveness": 0.1, "min_layer": 4}, **caps).min_layer == 4
    assert chosen(model="demo:aggressive", **caps).aggressiveness == 0.4
    assert chosen({"policy": "fixed", "exit_layer": 0}, **caps).exit_layer == 2
    assert chosen({"policy": "off"}, **caps) == ExitOptions("off")


TURNS = [{"role": role, "content": "hm"} for role in ("user", "assistant", "user")]


def test_a_risk_is_resolved_for_the_kind_of_prompt_that_it_is() -> None:
    measured = FakeEngine(risks={False: 0.3, True: 0.1})
    assert chosen({"max_risk": 0.02}, engine=measured) == ExitOptions(aggressiveness=0.3)
    later = chosen({"max_risk": 0.02}, engine=measured, messages=TURNS)
    assert later == ExitOptions(aggressiveness=0.1)
    named = chosen(headers={"X-DyVTE-Max-Risk": "0.02"}, engine=measured, messages=TURNS)
    assert named.aggressiveness == 0.1
    alone = FakeEngine(risks={False: 0.3})
    assert refused({"max_risk": 0.02}, engine=alone, messages=TURNS).status == 400


def test_presets_and_the_default_know_conversations() -> None:
    stay = ExitOptions(aggressiveness=0.0)
    info = replace(INFO, conversation_presets={"balanced": stay}, conversation_default=stay)
    engine = FakeEngine(info=info)
    assert chosen(engine=engine, messages=TURNS) == stay
    assert chosen(model="demo:balanced", engine=engine, messages=TURNS) == stay
    assert chosen(default_exits="balanced", engine=engine, messages=TURNS) == stay
    assert chosen(model="demo:aggressive", engine=engine, messages=TURNS).aggressiveness == 0.75
    assert chosen(model="demo:balanced", engine=engine).aggressiveness == 0.5


def test_what_a_calibration_decides_is_asked_of_state_where_there_are_no_gates() -> None:
    bare = replace(INFO, has_gates=False, default_exits=ExitOptions("fixed", exit_layer=2))
    engine = FakeEngine(info=replace(bare, policies=("state", "fixed", "off")), risks={False: 0.3})
    assert chosen({"max_risk": 0.02}, engine=engine) == ExitOptions("state", aggressiveness=0.3)


def test_the_operators_caps_hold_for_calibrated_policies() -> None:
    engine = FakeEngine(info=replace(INFO, policies=("gate", "state", "vtw", "fixed", "off")))
    caps: dict[str, Any] = {"max_aggressiveness": 0.4, "min_exit_layer": 2}
    assert chosen({"policy": "vtw"}, engine=engine, **caps) == ExitOptions("vtw", min_layer=2)
    state = chosen({"policy": "state", "aggressiveness": 0.9}, engine=engine, **caps)
    assert state == ExitOptions("state", aggressiveness=0.4, min_layer=2)


def test_a_range_below_the_operators_floor_is_a_400() -> None:
    assert refused({"max_layer": 1}, min_exit_layer=2).detail["param"] == "dyvte.max_layer"


@pytest.mark.parametrize(
    ("prune", "field"),
    [
        ({"method": "divprune", "ratio": 1.0}, "dyvte.prune.layer"),
        ({"method": "fastv", "layer": 2}, "dyvte.prune.layer"),
        ({"method": "pyramiddrop", "stages": [[1, 0.5], [3, 0.5]]}, "dyvte.prune.stages"),
    ],
)
def test_pruning_cannot_take_out_what_the_operator_keeps(prune: Any, field: str) -> None:
    """``divprune`` at ratio 1 took the whole image out before the first layer."""
    body = {"policy": "off", "prune": prune}
    assert refused(body, min_exit_layer=2).detail["param"] == field


def test_pruning_behind_the_operators_layer_is_granted() -> None:
    body = {"policy": "off", "prune": {"method": "fastv", "layer": 3}}
    assert chosen(body, min_exit_layer=2).prune is not None


def test_nan_in_a_header_keeps_the_image() -> None:
    kept = chosen(headers={"X-DyVTE-Aggressiveness": "nan"}, max_aggressiveness=0.5)
    assert kept.aggressiveness is not None
    assert kept.aggressiveness != kept.aggressiveness
