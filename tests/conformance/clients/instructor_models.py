"""Instructor, whose every answer is a model: the picture goes through its ``Image``."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

import instructor
import openai
from checks import API_KEY, BASE_URL, MAX_TOKENS, MODEL, PICTURE, QUESTION, report
from pydantic import BaseModel
from thing import Thing

SETTINGS: dict[str, Any] = {"model": MODEL, "max_tokens": MAX_TOKENS, "temperature": 0}


def asked(model: type[BaseModel], mode: instructor.Mode) -> tuple[Any, Any]:
    """The answer as ``model``, and the completion that it came in."""
    client = instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key=API_KEY), mode=mode)
    content = [QUESTION, instructor.Image.from_path(PICTURE)]
    answer, completion = client.chat.completions.create_with_completion(
        messages=[{"role": "user", "content": content}],
        response_model=model,
        max_retries=0,
        **SETTINGS,
    )
    return answer, completion


def tools() -> tuple[str, dict[str, Any]]:
    answer, completion = asked(Paint, instructor.Mode.TOOLS)
    return completion.choices[0].message.tool_calls[0].function.name, answer.model_dump()


def structured() -> dict[str, Any]:
    answer, completion = asked(Thing, instructor.Mode.JSON_SCHEMA)
    assert completion.usage.prompt_tokens_details.image_tokens > 0, "the picture did not arrive"
    return dict(answer.model_dump())


class paint(Thing):
    """Paint a thing."""


Paint = paint
report(tools=tools, structured=structured)
