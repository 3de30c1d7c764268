"""The demo model behind the API, which has learnt neither: forms and tools by their grammar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png
from tests.server.examples import events

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "blue"]},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["color", "n"],
    "additionalProperties": False,
}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}
JSON = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with connected(model="demo") as made:
        yield made


def chat(**fields: Any) -> dict[str, Any]:
    """A question about a picture; at temperature 1, so that the grammar has to hold."""
    messages = ask("what?", png(seed=1))
    return {"model": "demo", "messages": messages, "max_tokens": 100, "seed": 5, **fields}


async def choices(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(CHAT, json=chat(**fields))
    assert reply.status_code == 200, reply.text
    made: list[dict[str, Any]] = reply.json()["choices"]
    return made


async def test_forms_hold_among_requests_that_have_none(client: httpx.AsyncClient) -> None:
    free, json_, choice, regex = await asyncio.gather(
        choices(client, max_tokens=8),
        choices(client, response_format=JSON, n=3),
        choices(client, structured_outputs={"choice": ["yes", "no"]}),
        choices(client, structured_outputs={"regex": "[0-9]{2}-[a-f]{3}"}),
    )
    assert len(free) == 1
    for each in json_:
        assert each["finish_reason"] == "stop"
        assert json.loads(each["message"]["content"])["color"] in ("red", "blue")
    assert choice[0]["message"]["content"] in ("yes", "no")
    assert regex[0]["message"]["content"][2] == "-"
    assert free == await choices(client, max_tokens=8)


async def test_a_required_call_comes_whole_and_streamed(client: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"tools": [PAINT], "tool_choice": "required"}
    asked |= {"parallel_tool_calls": False, "max_tokens": 120, "temperature": 0}
    (whole,) = await choices(client, **asked)
    assert whole["finish_reason"] == "tool_calls"
    (call,) = whole["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]).keys() == {"color", "n"}
    chunks = events(await client.post(CHAT, json=chat(**asked, stream=True)))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    parts = [part["function"] for delta in deltas for part in delta.get("tool_calls", [])]
    assert "".join(part["arguments"] for part in parts) == call["function"]["arguments"]
    assert parts[0]["name"] == "paint"


async def test_completions_go_on_from_text_and_from_its_ids(client: httpx.AsyncClient) -> None:
    ids = (await client.post("/tokenize", json={"prompt": "hello"})).json()["tokens"]
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 6, "temperature": 0}
    texts = []
    for prompt in ("hello", ids, ["hello", "other"]):
        reply = await client.post("/v1/completions", json={**asked, "prompt": prompt})
        texts.append(reply.json()["choices"][0]["text"])
    assert len(set(texts)) == 1
