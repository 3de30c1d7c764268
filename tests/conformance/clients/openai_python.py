"""OpenAI's own Python client."""

# mypy: ignore-errors

from __future__ import annotations

import json
from typing import Any

import openai
from checks import API_KEY, BASE_URL, LONGER, MAX_TOKENS, MODEL, QUESTION, TOOL, messages, report
from thing import Thing

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY)
SETTINGS: dict[str, Any] = {"model": MODEL, "max_tokens": MAX_TOKENS, "temperature": 0}


def image() -> str:
    reply = client.chat.completions.create(
        messages=messages(QUESTION), extra_body={"dyvte": {"max_risk": 0.01}}, **SETTINGS
    )
    assert reply.model_extra is not None
    assert reply.model_extra["dyvte"]["visual_tokens"] > 0
    return str(reply.choices[0].message.content)


def stream() -> list[str]:
    chunks = client.chat.completions.create(
        messages=messages(LONGER), stream=True, stream_options={"include_usage": True}, **SETTINGS
    )
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


def tools() -> tuple[str, dict[str, Any]]:
    reply = client.chat.completions.create(
        messages=messages(QUESTION),
        tools=[openai.pydantic_function_tool(Thing, name=TOOL)],
        tool_choice="required",
        **SETTINGS,
    )
    call = reply.choices[0].message.tool_calls[0].function
    return call.name, json.loads(call.arguments)


def structured() -> dict[str, Any]:
    reply = client.chat.completions.parse(
        messages=messages(QUESTION), response_format=Thing, **SETTINGS
    )
    return dict(reply.choices[0].message.parsed.model_dump())


report(image, stream, tools, structured)
