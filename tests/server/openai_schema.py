"""OpenAI's own description of its replies, to hold ours against.

The file says 3.1 and writes ``nullable: true``, which draft 2020-12 ignores: it is rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FILE = Path(__file__).with_name("openai_replies.json")


def rewritten(node: Any) -> Any:
    if isinstance(node, list):
        return [rewritten(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: rewritten(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") is True else made


DOCUMENT = rewritten(json.loads(FILE.read_text("utf-8")))


def check_text_chunk(chunk: Mapping[str, Any]) -> None:
    """A chunk of ``/v1/completions`` has the schema of the whole, by OpenAI's description.

    Its prose and its examples have null where the type does not: a finish reason before the end,
    usage before the last chunk.
    """
    plain = {key: value for key, value in chunk.items() if key != "usage" or value is not None}
    choices = [
        {**choice, "finish_reason": choice["finish_reason"] or "stop"}
        for choice in chunk["choices"]
    ]
    check_text({**plain, "choices": choices})


def check_text(reply: Mapping[str, Any]) -> None:
    """A whole reply of ``/v1/completions``; a prompt's first token has null as log-probability,
    as OpenAI's service gives it, where the description has numbers only."""
    choices = []
    for choice in reply["choices"]:
        told = choice["logprobs"]
        if told and told["token_logprobs"][:1] == [None]:
            told = {
                **told,
                "token_logprobs": told["token_logprobs"][1:],
                "top_logprobs": told["top_logprobs"][1:],
            }
        choices.append({**choice, "logprobs": told})
    check("CreateCompletionResponse", {**reply, "choices": choices})


def check(name: str, value: object) -> None:
    """Raise unless ``value`` is a ``name`` of OpenAI's."""
    schema = {"$ref": f"#/components/schemas/{name}", **DOCUMENT}
    Draft202012Validator(schema).validate(value)
