"""Rules, alerts and their tests as data, and where Prometheus' own programs are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
PACKAGES = {
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-alertmanager": "prometheus-alertmanager",
}


def program(name: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {PACKAGES[name]})")
    return path


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``promtool`` says, its errors after its output. Days of alerts take it seconds."""
    command = [program("promtool"), *map(str, words)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule or an alert; ``labels`` and ``annotations`` are an alert's."""

    name: str
    expr: str
    alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


def rules(name: str) -> Iterator[Rule]:
    """The rules of ``rules.yml`` or ``alerts.yml``."""
    for group in yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            alert = "alert" in rule
            yield Rule(
                rule["alert" if alert else "record"],
                rule["expr"],
                alert,
                rule.get("labels", {}),
                rule.get("annotations", {}),
            )


RECORDS = list(rules("rules.yml"))
ALERTS = list(rules("alerts.yml"))


def cases(kind: str) -> Iterator[tuple[str, Any]]:
    """Every case of a kind (``alert_rule_test``, ``promql_expr_test``) with its test's name."""
    for test in _tests():
        for case in test.get(kind, ()):
            yield test["name"], case


@cache
def _tests() -> list[dict[str, Any]]:
    return [test for path in TESTS for test in yaml.safe_load(path.read_text("utf-8"))["tests"]]


def copy_of(folder: Path) -> Path:
    """``deploy/prometheus`` once more, to plant a mistake in."""
    return Path(shutil.copytree(PROMETHEUS, folder / "prometheus"))
