"""The page about security names a test for everything that it claims, and those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CELL = re.compile(r"(?<!\\)\|")  # a bar that is not escaped


def rows() -> list[list[str]]:
    """The table's rows as cells, without its head."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines[2:]]


def functions(path: Path) -> set[str]:
    """Names of the tests that a module defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_each_answer_names_tests_that_exist(row: list[str]) -> None:
    attack, seen, answer, tests = row
    assert attack
    assert seen
    assert answer
    named = NAMED.findall(tests)
    assert named, "a claim without a test"
    assert NAMED.sub("", tests).strip() == "", "something that is no test"
    for path, name in named:
        assert name.startswith("test_")
        assert name in functions(ROOT / path), f"{path} has no {name}"


def test_the_page_has_not_lost_its_rows() -> None:
    assert len(rows()) >= 24
