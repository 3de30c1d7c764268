"""The form of an answer over HTTP: what is asked reaches the engine, what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dyvte.errors import GrammarFailed
from dyvte.structured import StructuredOutput
from server import forms
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}}}


def format_of(schema: object = SCHEMA, **fields: Any) -> dict[str, Any]:
    named = {"name": "it", "schema": schema, **fields}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutput.json()),
        (format_of(strict=True), StructuredOutput.json(SCHEMA)),
        (format_of(None, strict=None), StructuredOutput.json()),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutput.regex("a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutput.choice(["a", "b"])),
        ({"structured_outputs": {"json": SCHEMA}}, StructuredOutput.json(SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, StructuredOutput.json(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, StructuredOutput.json()),
        ({"structured_outputs": {"json_object": False, "regex": None}}, None),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            StructuredOutput.grammar('start: "a"'),
        ),
    ],
)
async def test_a_form_reaches_the_engine_compiled(
    connect: Connect, fields: dict[str, Any], wanted: StructuredOutput | None
) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        assert (await client.post(CHAT, json=body(**fields))).status_code == 200
    assert engine.requests[0].sampling.structured_output == wanted
    assert engine.compiled == ([wanted] if wanted else [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (format_of([]), "response_format.json_schema.schema"),
        (format_of(name="no spaces"), "response_format.json_schema.name"),
        (
            format_of({"enum": list(range(2000))}),
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a" * 5000}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml"),
        ({"structured_outputs": {"regex": "a"}, **format_of()}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a"}, "guided_regex"),
    ],
)
async def test_a_form_that_cannot_be_kept_is_named(
    connect: Connect, fields: dict[str, Any], param: str
) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json=body(**fields))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


async def test_a_compilation_has_a_deadline(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "COMPILE_SECONDS", 0.02)
    async with connect() as client:
        reply = await client.post(CHAT, json=body(structured_outputs={"regex": "slow"}))
        assert reply.status_code == 400
        assert "too long" in reply.json()["error"]["message"]


async def test_a_grammar_that_dies_is_told(connect: Connect) -> None:
    engine = FakeEngine(fail_after=(3, GrammarFailed("no token fits")))
    async with connect(engine) as client:
        reply = await client.post(CHAT, json=body(structured_outputs={"regex": "a"}))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "structured_output_failed"
