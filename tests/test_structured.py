"""The form of an answer is checked for size before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dyvte import OptionError, SamplingParams, StructuredOutput


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_the_order_of_properties_is_kept() -> None:
    schema: dict[str, Any] = {"properties": {"b": {}, "a": {}}}
    assert StructuredOutput.json(schema).text == '{"properties":{"b":{},"a":{}}}'


def test_equal_forms_are_one_key() -> None:
    assert StructuredOutput.json('{"type": "object"}') == StructuredOutput.json()
    assert len({StructuredOutput.choice(["a"]), StructuredOutput.choice(("a",))}) == 1


@pytest.mark.parametrize(
    "schema",
    [
        nested(40),
        {"properties": {str(i): {} for i in range(513)}},
        {"anyOf": [{} for _ in range(513)]},
        {"enum": list(range(1001))},
        {"title": "x" * 70_000},
        {"minimum": float("nan")},
        {"const": object()},
        "{",
        "[1]",
        "[" * 50_000,
    ],
)
def test_a_schema_beyond_its_bounds_is_refused(schema: Any) -> None:
    with pytest.raises(OptionError, match="structured_output"):
        StructuredOutput.json(schema)


def test_text_beyond_its_bounds_is_refused() -> None:
    attempts: list[Callable[[], object]] = [
        lambda: StructuredOutput.regex("a" * 4097),
        lambda: StructuredOutput.regex(""),
        lambda: StructuredOutput.grammar("start: " + "a" * 70_000),
        lambda: StructuredOutput.choice([]),
        lambda: StructuredOutput.choice(["a", ""]),
        lambda: StructuredOutput.choice([str(i) for i in range(1001)]),
        lambda: StructuredOutput("xml", "<a/>"),
    ]
    for make in attempts:
        with pytest.raises(OptionError):
            make()


def test_an_answer_with_a_form_cannot_ignore_its_end() -> None:
    with pytest.raises(OptionError, match="ignore_eos"):
        SamplingParams(structured_output=StructuredOutput.json(), ignore_eos=True)
