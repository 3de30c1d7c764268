"""OpenAI's own Python client on its newer route, ``/v1/responses``."""

# mypy: ignore-errors

from __future__ import annotations

import json
from typing import Any

import openai
from checks import (
    API_KEY,
    BASE_URL,
    DATA_URL,
    LONGER,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    SCHEMA,
    TOOL,
    report,
)
from thing import Thing

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY)
SETTINGS: dict[str, Any] = {"model": MODEL, "max_output_tokens": MAX_TOKENS, "temperature": 0}


def asked(text: str) -> list[dict[str, Any]]:
    image = {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def image() -> str:
    reply = client.responses.create(
        input=asked(QUESTION), extra_body={"dyvte": {"max_risk": 0.01}}, **SETTINGS
    )
    assert reply.status == "completed"
    assert reply.model_extra["dyvte"]["visual_tokens"] > 0
    return reply.output_text


def stream() -> list[str]:
    events = list(client.responses.create(input=asked(LONGER), stream=True, **SETTINGS))
    pieces = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "".join(pieces)
    return pieces


def tools() -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "name": TOOL, "parameters": SCHEMA, "strict": True}
    reply = client.responses.create(
        input=asked(QUESTION), tools=[tool], tool_choice="required", **SETTINGS
    )
    (call,) = [item for item in reply.output if item.type == "function_call"]
    return call.name, json.loads(call.arguments)


def structured() -> dict[str, Any]:
    reply = client.responses.parse(input=asked(QUESTION), text_format=Thing, **SETTINGS)
    return dict(reply.output_parsed.model_dump())


report(image, stream, tools, structured)
