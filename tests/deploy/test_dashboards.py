"""The dashboards: what is committed is what the code gives, and nothing in it dangles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import styles
from deploy.grafana.build import DASHBOARDS, FOLDER, text_of
from deploy.grafana.dashboard import COLUMNS, Dashboard, lay_out
from deploy.grafana.panels import DATASOURCE, Query, Section, Stat
from deploy.grafana.queries import QueryError, defaults_of, interpolate, legend_of, panels_of
from dyvte.engine.stats import ExitOutcome, ShadowOutcome
from server.images import ImageFault
from server.metrics import REFUSALS, STAGES, ServerMetrics
from server.request_metrics import CACHES, PHASES
from tests.server.fake_engine import FakeEngine

ROOT = Path(__file__).parents[2]
WINDOWS = {"__rate_interval": "1m", "__range": "6h"}
PANELS = [
    pytest.param(dashboard, panel, id=f"{dashboard.uid}: {panel['title']}")
    for dashboard in DASHBOARDS
    for panel in panels_of(dashboard.json())
]


def expressions(dashboard: Dashboard, panel: dict[str, Any]) -> list[str]:
    """A panel's queries as Prometheus gets them."""
    values = defaults_of(dashboard.json()) | WINDOWS
    return [interpolate(target["expr"], values) for target in panel["targets"]]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_the_committed_file_is_what_the_code_gives(dashboard: Dashboard) -> None:
    committed = (FOLDER / f"{dashboard.uid}.json").read_text(encoding="utf-8")
    assert committed == text_of(dashboard), "python -m deploy.grafana.build writes it anew"


def test_no_file_lies_about_that_no_code_gives() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {each.uid for each in DASHBOARDS}


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(
    dashboard: Dashboard, panel: dict[str, Any]
) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == DATASOURCE
    assert all(target["datasource"] == DATASOURCE for target in panel["targets"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_no_datasource_is_fixed(dashboard: Dashboard) -> None:
    sources = re.findall(r'"datasource": \{[^}]*"uid": "([^"]*)"', text_of(dashboard))
    assert sources
    assert set(sources) == {"${datasource}"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_panels_have_their_own_ids_and_cover_the_grid_once(dashboard: Dashboard) -> None:
    panels = dashboard.json()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    rows = max(y for _, y in cells) + 1
    assert len(cells) == len(set(cells)) == COLUMNS * rows
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_gap_in_the_grid_is_refused() -> None:
    small = Stat("small", "A panel that leaves a gap.", "short", Query("up"), width=8)
    with pytest.raises(ValueError, match="16 columns are left empty"):
        lay_out([Section("one", (small,))])
    with pytest.raises(ValueError, match="does not fit its line"):
        lay_out([Section("one", (small,) * 2 + (Stat("wide", "", "", Query("up"), width=9),))])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_a_dashboard_offers_its_variables_and_the_way_to_the_others(dashboard: Dashboard) -> None:
    made = dashboard.json()
    variables = {each["name"]: each for each in made["templating"]["list"]}
    assert list(variables)[:3] == ["datasource", "model_name", "policy"]
    assert all(each["label"] and each["description"] for each in variables.values())
    assert variables["policy"]["multi"]
    assert variables["policy"]["includeAll"]
    (link,) = made["links"]
    assert link["keepTime"]
    assert link["includeVars"]
    assert set(link["tags"]) <= set(made["tags"])


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_every_query_is_promql(dashboard: Dashboard, panel: dict[str, Any]) -> None:
    parser = pytest.importorskip("promql_parser", reason="promql-parser is in the extra dev")
    for expr in expressions(dashboard, panel):
        parser.parse(expr)


def known_series() -> dict[str, set[str]]:
    """Each series that Prometheus will have, with its labels: the server's and the rules'."""
    metrics = ServerMetrics("demo")
    metrics.bind(FakeEngine(), "0")
    known: dict[str, set[str]] = {}
    for family in metrics.collect():
        for sample in family.samples:
            known.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        grouped = re.findall(r"by \(([\w, ]+)\)", rule["expr"])
        known[rule["record"]] = {label for labels in grouped for label in labels.split(", ")}
    return known


KNOWN = known_series()


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_query_asks_for_series_and_labels_that_exist(
    dashboard: Dashboard, panel: dict[str, Any]
) -> None:
    for expr in expressions(dashboard, panel):
        names = set(re.findall(r"(?:\w+:)?dyvte_\w+(?::\w+)?|dyvte:\w+:\w+", expr))
        assert names, "a query asks for something of ours"
        assert names - KNOWN.keys() == set()
        for name, selector in re.findall(r"([\w:]*dyvte[\w:]+)\{([^}]*)\}", expr):
            assert set(re.findall(r"(\w+)[=!]~?", selector)) <= KNOWN[name], name


@pytest.mark.parametrize(
    ("colours", "values"),
    [
        (styles.PHASES, PHASES),
        (styles.CACHES, CACHES),
        (styles.STAGES, STAGES),
        (styles.REFUSALS, REFUSALS),
        (styles.OUTCOMES, [each.value for each in ExitOutcome]),
        (styles.SHADOWS, [each.value for each in ShadowOutcome]),
        (styles.FAULTS, [each.value for each in ImageFault]),
    ],
)
def test_every_value_of_a_label_has_a_colour_of_its_own(
    colours: dict[str, str], values: list[str]
) -> None:
    assert set(colours) == set(values)
    assert len(set(colours.values())) == len(colours)


def test_a_variable_without_a_value_is_refused() -> None:
    assert interpolate("rate(a[$w]) * ${b}", {"w": "1m", "b": "2"}) == "rate(a[1m]) * 2"
    with pytest.raises(QueryError, match=r"\$wrong"):
        interpolate("up * $wrong", {})


def test_a_legend_is_filled_from_labels() -> None:
    assert legend_of({"legendFormat": "{{policy}} p95"}, {"policy": "gate"}) == "gate p95"
    assert legend_of({"legendFormat": "__auto"}, {"__name__": "up", "job": "dyvte"}) == "dyvte"


def test_provisioning_takes_the_address_from_the_environment() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert [each["url"] for each in sources["datasources"]] == ["${PROMETHEUS_URL}"]
    providers = yaml.safe_load((folder / "dashboards/dyvte.yml").read_text(encoding="utf-8"))
    (provider,) = providers["providers"]
    assert json.dumps(provider["options"]) == '{"path": "/etc/grafana/dashboards"}'
