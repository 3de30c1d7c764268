"""OpenAI's own description of its replies, to hold ours against.

The file says 3.1 and writes ``nullable: true``, which draft 2020-12 ignores: it is rewritten.
"""

from __future__ import annotations

import json
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


def check(name: str, value: object) -> None:
    """Raise unless ``value`` is a ``name`` of OpenAI's."""
    schema = {"$ref": f"#/components/schemas/{name}", **DOCUMENT}
    Draft202012Validator(schema).validate(value)
