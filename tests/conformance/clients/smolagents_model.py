"""smolagents' model for OpenAI-compatible servers, as its agents call it."""

# mypy: ignore-errors

from __future__ import annotations

import json
from typing import Any

from checks import (
    API_KEY,
    BASE_URL,
    LONGER,
    MAX_TOKENS,
    MODEL,
    PICTURE,
    QUESTION,
    SCHEMA,
    report,
)
from PIL import Image
from smolagents import OpenAIServerModel
from smolagents.models import ChatMessage, MessageRole

model = OpenAIServerModel(
    MODEL, api_base=BASE_URL, api_key=API_KEY, max_tokens=MAX_TOKENS, temperature=0
)


def ask(text: str) -> list[ChatMessage]:
    picture = {"type": "image", "image": Image.open(PICTURE)}
    return [ChatMessage(MessageRole.USER, [picture, {"type": "text", "text": text}])]


def image() -> str:
    return str(model.generate(ask(QUESTION)).content)


def stream() -> list[str]:
    return [delta.content or "" for delta in model.generate_stream(ask(LONGER))]


def structured() -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    return dict(json.loads(model.generate(ask(QUESTION), response_format=form).content))


report(image=image, stream=stream, structured=structured)
