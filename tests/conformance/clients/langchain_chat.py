"""LangChain's chat model for OpenAI-compatible servers."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

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
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from thing import Thing

model = ChatOpenAI(
    base_url=BASE_URL, api_key=API_KEY, model=MODEL, temperature=0, max_tokens=MAX_TOKENS
)


def ask(text: str) -> list[HumanMessage]:
    image = {"type": "image_url", "image_url": {"url": DATA_URL}}
    return [HumanMessage(content=[image, {"type": "text", "text": text}])]


def image() -> str:
    return str(model.invoke(ask(QUESTION)).content)


def stream() -> list[str]:
    return [str(chunk.content) for chunk in model.stream(ask(LONGER))]


def tools() -> tuple[str, dict[str, Any]]:
    paint = {"name": TOOL, "description": "Paint a thing.", "parameters": SCHEMA}
    tool = {"type": "function", "function": paint}
    call = model.bind_tools([tool], tool_choice="any").invoke(ask(QUESTION)).tool_calls[0]
    return call["name"], call["args"]


def structured() -> dict[str, Any]:
    thing = model.with_structured_output(Thing, method="json_schema").invoke(ask(QUESTION))
    return dict(thing.model_dump())


report(image, stream, tools, structured)
