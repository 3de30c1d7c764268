"""Haystack's chat generator."""

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
    TOOL,
    report,
)
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent, StreamingChunk
from haystack.tools import Tool
from haystack.utils import Secret
from thing import Thing


def asked(text: str, settings: dict[str, Any] | None = None, **options: Any) -> ChatMessage:
    """The answer to the picture and ``text``."""
    generator = OpenAIChatGenerator(
        model=MODEL,
        api_base_url=BASE_URL,
        api_key=Secret.from_token(API_KEY),
        generation_kwargs={"max_tokens": MAX_TOKENS, "temperature": 0, **(settings or {})},
        **options,
    )
    content = [ImageContent.from_file_path(PICTURE), text]
    return generator.run([ChatMessage.from_user(content_parts=content)])["replies"][0]


def image() -> str:
    return str(asked(QUESTION).text)


def stream() -> list[str]:
    pieces: list[str] = []

    def keep(chunk: StreamingChunk) -> None:
        pieces.append(chunk.content)

    asked(LONGER, streaming_callback=keep)
    return pieces


def tools() -> tuple[str, dict[str, Any]]:
    paint = Tool(name=TOOL, description="Paint a thing.", parameters=SCHEMA, function=dict)
    call = asked(QUESTION, {"tool_choice": "required"}, tools=[paint]).tool_calls[0]
    return call.tool_name, call.arguments


def structured() -> dict[str, Any]:
    return dict(json.loads(asked(QUESTION, {"response_format": Thing}).text))


report(image, stream, tools, structured)
