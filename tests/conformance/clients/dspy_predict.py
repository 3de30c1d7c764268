"""DSPy's language model, with what it passes on to the server."""

# mypy: ignore-errors

from __future__ import annotations

import json
from typing import Any

import dspy
from checks import API_KEY, BASE_URL, MAX_TOKENS, MODEL, QUESTION, SCHEMA, messages, report

model = dspy.LM(
    f"openai/{MODEL}",
    api_base=BASE_URL,
    api_key=API_KEY,
    max_tokens=MAX_TOKENS,
    temperature=0,
    cache=False,
)


def asked(**settings: Any) -> str:
    (answer,) = model(messages=messages(QUESTION), **settings)
    return str(answer["text"] if isinstance(answer, dict) else answer)


def structured() -> dict[str, Any]:
    thing = {"name": "thing", "schema": SCHEMA, "strict": True}
    return dict(json.loads(asked(response_format={"type": "json_schema", "json_schema": thing})))


report(image=asked, structured=structured)
