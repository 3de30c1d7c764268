"""Rules and alerts ask for what the server has, say what they must, and are all tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest

from server.metrics import ServerMetrics
from tests.deploy.programs import ROOT
from tests.prometheus.files import ALERTS, RECORDS, Rule, cases
from tests.server.fake_engine import FakeEngine

RULES = RECORDS + ALERTS
# Labels that Prometheus adds to every series of a target.
TARGET = {"job", "instance"}
OPERATIONS = ROOT / "docs" / "operations.md"


def series() -> dict[str, dict[str, set[str]]]:
    """What can be asked for: every series of a page with the values of its labels."""
    metrics = ServerMetrics("demo")
    metrics.bind(FakeEngine(), "1.0")
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in metrics.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


SERIES = series()
RECORDED = {rule.name for rule in RECORDS}


def nodes(expr: str) -> Iterator[Any]:
    """Every node of an expression."""
    found: list[Any] = []
    promql.walk(promql.parse(expr), found.append)
    return iter(found)


def selectors(expr: str) -> list[Any]:
    """Every series that an expression selects, with or without a range."""
    plain = [node for node in nodes(expr) if isinstance(node, promql.VectorSelector)]
    ranges = [node for node in nodes(expr) if isinstance(node, promql.MatrixSelector)]
    return plain + [node.vector_selector for node in ranges]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_expression_asks_for_series_that_exist(rule: Rule) -> None:
    asked = selectors(rule.expr)
    assert asked
    for selector in asked:
        if selector.name in RECORDED:
            continue
        labels = SERIES[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET:
                continue
            exact = matcher.op == promql.MatchOp.Equal
            pattern = re.escape(matcher.value) if exact else matcher.value
            known = labels[matcher.name]
            assert any(re.fullmatch(pattern, value) for value in known), str(matcher)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_policy_is_compared_with_another_model(rule: Rule) -> None:
    """An aggregation that drops the model's name would mix models; only the fleet's may."""
    for node in nodes(rule.expr):
        if isinstance(node, promql.AggregateExpr) and not rule.name.startswith("dyvte:flops"):
            assert node.modifier is not None, rule.expr
            assert "model_name" in node.modifier.labels, rule.expr


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule.name)
def test_a_recorded_name_says_level_metric_and_operation(rule: Rule) -> None:
    assert re.fullmatch(r"(dyvte|model|policy):[a-z_]+:[a-z0-9_]+", rule.name)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_an_alert_says_how_grave_it_is_what_it_saw_and_where_to_read_on(rule: Rule) -> None:
    assert rule.labels["severity"] in ("critical", "warning")
    assert rule.annotations.keys() == {"summary", "description", "runbook_url"}
    assert rule.annotations["runbook_url"] == f"docs/operations.md#{rule.name.lower()}"
    headings = re.findall(r"^#+ (\w+)$", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    assert rule.name in headings


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule.name)
def test_every_recording_rule_has_a_test(rule: Rule) -> None:
    asked = [name for _, case in cases("promql_expr_test") for name in names(case["expr"])]
    assert rule.name in asked


def names(expr: str) -> list[str]:
    return [selector.name for selector in selectors(expr) if selector.name]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_is_seen_silent_then_firing_then_silent_again(rule: Rule) -> None:
    told: dict[str, list[bool]] = {}
    for test, case in cases("alert_rule_test"):
        fires, seen = bool(case.get("exp_alerts")), told.setdefault(test, [])
        if case["alertname"] == rule.name and seen[-1:] != [fires]:
            seen.append(fires)
    assert [False, True, False] in told.values(), told


def test_the_tests_themselves_parse() -> None:
    exprs = [case["expr"] for _, case in cases("promql_expr_test")]
    assert exprs
    for expr in exprs:
        promql.parse(expr)
