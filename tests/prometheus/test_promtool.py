"""Prometheus' own programs accept what is deployed, and notice when it is wrong.

What replays days of alerts takes half a minute and is run by ``make check-prometheus``; the rest
runs wherever the programs are installed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from server.metrics import ServerMetrics
from tests.prometheus.files import PROMETHEUS, TESTS, copy_of, program, promtool
from tests.server.fake_engine import FakeEngine


def test_the_configuration_and_its_rules_are_sound() -> None:
    told = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert told.returncode == 0, told.stdout
    linted = ["check", "rules", "--lint=all", "--lint-fatal"]
    told = promtool(*linted, PROMETHEUS / "rules.yml", PROMETHEUS / "alerts.yml")
    assert told.returncode == 0, told.stdout


@pytest.mark.promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_and_alerts_do_what_their_tests_say(path: Path) -> None:
    told = promtool("test", "rules", path)
    assert told.returncode == 0, told.stdout


@pytest.mark.promtool
@pytest.mark.parametrize(
    ("test", "file", "right", "wrong"),
    [
        ("day", "alerts.yml", "< 0.8 *", "< 0.95 *"),
        ("day", "alerts.yml", "increase1d > 2.5", "increase1d > 0.5"),
        ("day", "rules.yml", "1.645 / (3 * sqrt", "0 / (3 * sqrt"),
        ("exits", "alerts.yml", "> 1.1", "> 1.6"),
        ("load", "alerts.yml", "deriv(", "-deriv("),
        ("rules", "rules.yml", '{outcome=~"agreed|changed"}[1h]', "[1h]"),
    ],
)
def test_a_planted_mistake_fails_the_tests(
    tmp_path: Path, test: str, file: str, right: str, wrong: str
) -> None:
    folder = copy_of(tmp_path)
    text = (folder / file).read_text("utf-8")
    assert right in text
    (folder / file).write_text(text.replace(right, wrong, 1), "utf-8")
    told = promtool("test", "rules", folder / "tests" / f"{test}_test.yml")
    assert "FAILED" in told.stdout


@pytest.mark.parametrize("bound", [False, True], ids=["loading", "loaded"])
def test_the_page_of_the_server_is_clean(bound: bool) -> None:
    metrics = ServerMetrics("demo")
    if bound:
        metrics.bind(FakeEngine(), "1.0")
    told = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=metrics.page(),
        capture_output=True,
        timeout=60,
    )
    assert (told.returncode, told.stdout + told.stderr) == (0, b"")
