"""Exits as a visitor chooses them are what the engine gets; only what is offered is shown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dyvte.exits.presets import Measured, PresetRecord
from dyvte.params import ExitOptions, PruneOptions
from tests.playground.chromium import ask, show
from tests.playground.conftest import Open
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.running import serve

pytestmark = pytest.mark.playground


def choose(page: Any, name: str) -> None:
    page.locator(".chip", has_text=name).click()


def test_every_kind_of_exit_reaches_the_engine_as_chosen(opened: Open) -> None:
    engine = FakeEngine()
    with serve(engine) as base:
        page = opened(base).page
        show(page, "A red circle")

        def asked() -> ExitOptions | None:
            ask(page)
            return engine.requests[-1].exits

        assert asked() == ExitOptions(aggressiveness=0.5), "the default"
        choose(page, "Safe")
        assert asked() == ExitOptions(aggressiveness=0.25)
        choose(page, "Off")
        assert asked() == ExitOptions(policy="off")
        choose(page, "Fixed layer")
        page.locator("#exit-layer").press("End")
        page.locator("#exit-layer").press("ArrowLeft")
        assert asked() == ExitOptions(policy="fixed", exit_layer=4)
        choose(page, "Gates")
        page.get_by_label("Aggressiveness, exactly").fill("0.007")
        assert asked() == ExitOptions(aggressiveness=0.007)
        page.locator("#aggressiveness").press("End")
        assert asked() == ExitOptions(aggressiveness=1.0)


def test_pruning_goes_before_a_preset_and_keeps_what_it_means(opened: Open) -> None:
    engine = FakeEngine()
    with serve(engine) as base:
        page = opened(base).page
        show(page, "Three hearts")
        choose(page, "Safe")
        page.locator("#prune summary").click()
        page.locator("#prune-method").select_option("fastv")
        page.locator("#prune-layer").fill("3")
        ask(page)
    exits = engine.requests[-1].exits
    assert exits is not None
    assert (exits.policy, exits.aggressiveness) == ("gate", 0.25)
    assert PruneOptions.of(exits.prune) == PruneOptions(method="fastv", layer=3, ratio=0.5)  # type: ignore[arg-type]


def test_a_calibrated_model_tells_its_promise_and_takes_a_risk(opened: Open) -> None:
    record = PresetRecord(0.005, 0.95, Measured(4000, 12, 0.0049, 0.53, 0.43), None)
    info = dataclasses.replace(INFO, calibrated=True, records={"balanced": record})
    engine = FakeEngine(info=info, risks={False: 0.0123})
    with serve(engine) as base:
        page = opened(base).page
        assert page.locator("#promise").text_content() == (
            "Gates at aggressiveness 0.5. At most 0.5 % changed answers, with 95 % confidence. "
            "Measured on 4,000 questions: 0.3 % changed, 53 % of the prefill saved."
        )
        choose(page, "Gates")
        page.get_by_role("button", name="By risk").click()
        ask(page, "how many?")
    assert engine.requests[-1].exits == ExitOptions(aggressiveness=0.0123)


def test_a_model_without_gates_offers_none_and_says_how_to_get_some(opened: Open) -> None:
    info = dataclasses.replace(
        INFO,
        policies=("fixed", "off"),
        prune_methods=(),
        presets={},
        default_exits=ExitOptions(policy="off"),
        has_gates=False,
        exits_hint="calibrate this model",
    )
    with serve(FakeEngine(info=info)) as base:
        page = opened(base).page
        assert page.locator("#policies label").all_text_contents() == ["Offdefault", "Fixed layer"]
        assert "calibrate this model" in page.locator("#promise").text_content()
        assert page.locator("#compare").is_disabled()
        assert not page.locator("#prune").is_visible()


def test_the_request_shown_is_the_request_sent_without_the_pictures(opened: Open) -> None:
    with serve(FakeEngine()) as base:
        page = opened(base).page
        show(page, "A red circle")
        choose(page, "Aggressive")
        page.locator("#wire summary").click()
        shown = page.locator("#wire pre").text_content()
    assert '"model": "demo:aggressive"' in shown
    assert '"url": "data:image/png;base64,…"' in shown
