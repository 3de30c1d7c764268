"""`make observability-test`: real servers, Prometheus and Alertmanager, under real traffic.

Panels and rules must have something to show for healthy traffic, which must wake nobody; then
each alert must fire when its condition is true and be gone when it no longer is (scenario.py says
how each comes about, hurry.py by how much time is shortened).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from deploy.grafana.build import DASHBOARDS
from deploy.grafana.queries import Prometheus, defaults_of, interpolate, panels_of
from tests.observability import scenario
from tests.observability.stack import PROGRAMS, ROOT, program

pytestmark = [pytest.mark.observability, pytest.mark.timeout(420)]

WINDOWS = {"__rate_interval": "10s", "__range": f"{scenario.HEALTHY_S:.0f}s"}


def rules(name: str, kind: str) -> list[str]:
    """Names of the rules in a file of deploy/prometheus."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text("utf-8"))["groups"]
    return [rule[kind] for group in groups for rule in group["rules"] if kind in rule]


RECORDED = rules("rules.yml", "record")
ALERTS = rules("alerts.yml", "alert")
PANELS = [
    pytest.param(dashboard.json(), panel, id=f"{dashboard.uid}: {panel['title']}")
    for dashboard in DASHBOARDS
    for panel in panels_of(dashboard.json())
]


@dataclass(frozen=True)
class Healthy:
    """The first act: its end, and what fired until then."""

    prometheus: Prometheus
    end: float
    fired: set[str]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[scenario.Play]:
    missing = [name for name in PROGRAMS if program(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    playing = scenario.open_play(tmp_path_factory.mktemp("observability"))
    yield playing
    playing.watch.stop()
    playing.clients.close()
    playing.stack.close()


@pytest.fixture(scope="module")
def healthy(play: scenario.Play) -> Healthy:
    scenario.healthy(play)
    return Healthy(Prometheus(play.stack.url("prometheus")), time.time(), set(play.watch.seen))


@pytest.fixture(scope="module")
def troubled(play: scenario.Play, healthy: Healthy) -> dict[str, float]:
    scenario.trouble(play)
    return dict(play.watch.seen)


@pytest.fixture(scope="module")
def resolved(play: scenario.Play, troubled: dict[str, float]) -> set[str]:
    return scenario.recovery(play)


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_every_query_of_a_panel_has_data(
    healthy: Healthy, dashboard: dict[str, Any], panel: dict[str, Any]
) -> None:
    values = defaults_of(dashboard) | WINDOWS
    for target in panel["targets"]:
        expr = interpolate(target["expr"], values)
        start = healthy.end - scenario.HEALTHY_S
        found = healthy.prometheus.range(expr, start, healthy.end, 1)
        numbers = [value for series in found for value in series.values if math.isfinite(value)]
        assert numbers, expr


def test_healthy_traffic_wakes_nobody(healthy: Healthy) -> None:
    assert healthy.fired == set()


@pytest.mark.parametrize("name", [name for name in ALERTS if name != "DyvteAllDown"])
def test_an_alert_fires_when_its_condition_is_true(troubled: dict[str, float], name: str) -> None:
    assert name in troubled


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_has_data(
    healthy: Healthy, troubled: dict[str, float], name: str
) -> None:
    start = healthy.end - scenario.HEALTHY_S
    found = healthy.prometheus.range(name, start, time.time(), 1)
    assert any(math.isfinite(value) for series in found for value in series.values)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_gone_when_its_condition_is(resolved: set[str], name: str) -> None:
    assert name in resolved
