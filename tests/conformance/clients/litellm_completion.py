"""LiteLLM's ``completion`` with its provider for OpenAI-compatible servers."""

# mypy: ignore-errors

from __future__ import annotations

import json
from typing import Any

import litellm
from checks import (
    API_KEY,
    BASE_URL,
    LONGER,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    SCHEMA,
    TOOL,
    messages,
    report,
)
from thing import Thing

SETTINGS: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": BASE_URL,
    "api_key": API_KEY,
    "max_tokens": MAX_TOKENS,
    "temperature": 0,
}


def image() -> str:
    reply = litellm.completion(messages=messages(QUESTION), **SETTINGS)
    return str(reply.choices[0].message.content)


def stream() -> list[str]:
    chunks = litellm.completion(messages=messages(LONGER), stream=True, **SETTINGS)
    return [chunk.choices[0].delta.content or "" for chunk in chunks]


def tools() -> tuple[str, dict[str, Any]]:
    paint = {"name": TOOL, "description": "Paint a thing.", "parameters": SCHEMA}
    reply = litellm.completion(
        messages=messages(QUESTION),
        tools=[{"type": "function", "function": paint}],
        tool_choice="required",
        **SETTINGS,
    )
    call = reply.choices[0].message.tool_calls[0].function
    return call.name, json.loads(call.arguments)


def structured() -> dict[str, Any]:
    reply = litellm.completion(messages=messages(QUESTION), response_format=Thing, **SETTINGS)
    return dict(json.loads(reply.choices[0].message.content))


report(image, stream, tools, structured)
