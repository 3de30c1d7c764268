"""Pydantic AI: answers and calls come out of an agent's run."""

# mypy: ignore-errors

from __future__ import annotations

import asyncio
from typing import Any

from checks import API_KEY, BASE_URL, LONGER, MAX_TOKENS, MODEL, PICTURE, QUESTION, TOOL, report
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from thing import Thing

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))
SETTINGS: Any = {"max_tokens": MAX_TOKENS, "temperature": 0}


def ask(text: str) -> list[Any]:
    return [BinaryContent(PICTURE.read_bytes(), media_type="image/png"), text]


def image() -> str:
    return str(Agent(model, model_settings=SETTINGS).run_sync(ask(QUESTION)).output)


def stream() -> list[str]:
    async def pieces() -> list[str]:
        agent = Agent(model, model_settings=SETTINGS)
        async with agent.run_stream(ask(LONGER)) as run:
            return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(pieces())


def tools() -> tuple[str, dict[str, Any]]:
    agent = Agent(model, model_settings=SETTINGS, output_type=ToolOutput(Thing, name=TOOL))
    for message in agent.run_sync(ask(QUESTION)).all_messages():
        for part in message.parts if isinstance(message, ModelResponse) else ():
            if isinstance(part, ToolCallPart):
                return part.tool_name, part.args_as_dict()
    raise LookupError("no call")


def structured() -> dict[str, Any]:
    agent = Agent(model, model_settings=SETTINGS, output_type=NativeOutput(Thing))
    return dict(agent.run_sync(ask(QUESTION)).output.model_dump())


report(image, stream, tools, structured)
