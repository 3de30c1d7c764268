"""The dashboards' JSON against Grafana's own published types, by the TypeScript compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana.build import DASHBOARDS

pytestmark = [pytest.mark.observability, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "typescript"
FLAGS = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--target", "es2022")
Check = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What the compiler says about several dashboards; nothing where they are sound."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: it brings @grafana/schema and typescript")
    folder = tmp_path_factory.mktemp("typescript")
    for path in HERE.iterdir():
        shutil.copy(path, folder)
    _run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund"], folder)

    def said(pages: dict[str, Any]) -> str:
        for name, page in pages.items():
            text = "import type { Page } from './page';\nexport const page: Page = "
            (folder / f"{name}.ts").write_text(text + json.dumps(page, indent=1) + ";\n")
        tsc = folder / "node_modules/.bin/tsc"
        files = [f"{name}.ts" for name in pages]
        return _run([tsc, *FLAGS, "--moduleResolution", "bundler", *files], folder, fails=True)

    return said


def _run(command: list[str | Path], folder: Path, fails: bool = False) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=500)
    assert fails or done.returncode == 0, done.stderr
    return done.stdout if done.returncode else ""


def test_dashboards_are_what_grafana_reads(check: Check) -> None:
    assert check({each.uid: each.json() for each in DASHBOARDS}) == ""


def test_planted_mistakes_are_found(check: Check) -> None:
    wrong = DASHBOARDS[0].json()
    lines = next(panel for panel in wrong["panels"] if panel["type"] == "timeseries")
    lines["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "lines"
    number = next(panel for panel in wrong["panels"] if panel["type"] == "stat")
    number["options"]["graphMod"] = number["options"].pop("graphMode")
    wrong["refresh"] = 30
    said = check({"wrong": wrong})
    found = ("graphMod", '"lines"', "'number' is not assignable")
    assert all(words in said for words in found), said
    assert said.count("error TS") == len(found), said
