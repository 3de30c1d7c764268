"""Requests to ``/v1/responses``, and how their streams are read."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.server.openai_schema import check

RESPONSES = "/v1/responses"
PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK = {"type": "function", "name": "look", "description": "Looks.", "parameters": PARAMETERS}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'


def asked(given: Any = "hi", /, **fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "demo", "input": given, **fields}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The input of one user's message."""
    return [{"role": "user", "content": list(parts)}]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each OpenAI's, named as it says and numbered from 0 on."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check("ResponseStreamEvent", event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds_of(events: list[dict[str, Any]]) -> list[str]:
    """The types in order, those that come again and again once."""
    kinds = [event["type"].removeprefix("response.") for event in events]
    return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]


def said_of(response: dict[str, Any]) -> str:
    """The text of all messages."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def without_ids(value: Any) -> Any:
    """``value`` without what is another in every reply."""
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    apart = ("id", "call_id", "created_at", "completed_at", "timings")
    return {key: without_ids(each) for key, each in value.items() if key not in apart}
