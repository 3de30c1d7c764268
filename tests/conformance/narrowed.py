"""OpenAI's description of chat completions, narrowed to requests that this server should take.

Taken out is what the server refuses by its own documentation (``UNSUPPORTED``) and what a type
cannot say: which model is served, what a picture's URL holds, how long a prompt may be, which
fields need each other (``VARIANTS``). All else stays OpenAI's, so that a refusal of what is drawn
from here is a mistake. A stream's events are described one by one, as schemathesis reads them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from server.api.validation import UNSUPPORTED, UNSUPPORTED_IN_MESSAGE
from tests.conformance.bodies import SCHEMA
from tests.conformance.variants import CONVERSATIONS, TOOL, VARIANTS
from tests.server.examples import RED
from tests.server.openai_schema import rewritten

PATH = "/chat/completions"
ROOT = "CreateChatCompletionRequest"
PREFIX = "#/components/schemas/"
TELLS_NOTHING = ("description", "example", "examples", "x-oaiMeta", "deprecated")
ROLES = ("Developer", "System", "User", "Assistant")
STREAM = "text/event-stream"
TEXT = {"type": "string", "maxLength": 40}

Schemas = dict[str, Any]


def narrowed(description: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A description of the one route, with every schema that it needs."""
    schemas: Schemas = rewritten(_plain(description["components"]["schemas"]))
    properties = _merged(schemas, ROOT)
    kept = {name: schema for name, schema in properties.items() if name not in UNSUPPORTED}
    for name, fields in VARIANTS.items():
        schemas[ROOT + name] = {
            "type": "object",
            "properties": {**kept, **_values(model), **fields},
            "required": ["model", "messages", "max_completion_tokens", *fields],
        }
    _narrow_messages(schemas)
    for name in _reachable_from({ROOT + name for name in VARIANTS}, schemas):
        schemas[name] = _closed(schemas[name])
    operation = copy.deepcopy(description["paths"][PATH]["post"])
    drawn = {"anyOf": [{"$ref": PREFIX + ROOT + name} for name in VARIANTS]}
    operation["requestBody"]["content"]["application/json"]["schema"] = drawn
    error = {"application/json": {"schema": {"$ref": f"{PREFIX}ErrorResponse"}}}
    operation["responses"] = {
        "200": rewritten(_plain(operation["responses"]["200"])),
        "default": {"description": "An error", "content": error},
    }
    events = operation["responses"]["200"]["content"][STREAM]
    events["schema"] = _event(events["schema"])
    made = {"paths": {PATH: {"post": _plain(operation)}}, "components": {"schemas": schemas}}
    return {"openapi": "3.1.0", "info": {"title": "chat", "version": "1"}, **_reachable(made)}


def _event(chunk: Schemas) -> Schemas:
    """A server-sent event with a chunk in it; the last one says that it is."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk}
    last = {"const": "[DONE]"}
    return {
        "type": "object",
        "properties": {"data": {"if": {"not": last}, "then": data}},
        "required": ["data"],
    }


def _plain(node: Any) -> Any:
    """Without words for readers; a property may well be called "description"."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _plain(schema) for name, schema in value.items()}
        if key == "properties"
        else _plain(value)
        for key, value in node.items()
        if key not in TELLS_NOTHING
    }


def _merged(schemas: Schemas, name: str) -> Schemas:
    """The properties of a schema and of those that it extends."""
    found: Schemas = {}
    schema = schemas[name]
    for part in (schema, *schema.get("allOf", ())):
        if "$ref" in part:
            found |= _merged(schemas, part["$ref"].removeprefix(PREFIX))
        found |= part.get("properties", {})
    return found


def _values(model: str) -> Schemas:
    """Fields whose values a description leaves open and a small model does not."""
    schema = {"name": "thing", "schema": SCHEMA, "strict": True}
    forms = [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": schema},
    ]
    stop = {"type": "string", "minLength": 1, "maxLength": 20}
    return {
        "model": {"enum": [model]},
        "messages": {
            "anyOf": [
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 4,
                    "items": {"$ref": f"{PREFIX}ChatCompletionRequestMessage"},
                },
                {"enum": CONVERSATIONS},
            ]
        },
        "max_tokens": {"enum": [None]},  # OpenAI refuses both, too
        "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": 4},
        "n": {"enum": [None, 1, 2]},
        "top_logprobs": {"enum": [None]},  # needs logprobs: true beside it
        "logit_bias": {"enum": [None, {}, {"5": 3, "17": -100}]},
        "response_format": {"enum": forms},
        "stop": {"anyOf": [stop, {"type": "array", "minItems": 1, "maxItems": 4, "items": stop}]},
        # 64 bits; the published bounds are these after a detour through floating point.
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stream": {"enum": [None, False]},
        "stream_options": {"enum": [None]},  # needs stream: true beside it
        "tools": {"enum": [[TOOL]]},
        "tool_choice": {"enum": ["none", "auto"]},
    }


def _narrow_messages(schemas: Schemas) -> None:
    """Roles, parts and lengths; calls and their results belong together and come whole."""
    refs = [{"$ref": f"{PREFIX}ChatCompletionRequest{role}Message"} for role in ROLES]
    schemas["ChatCompletionRequestMessage"] = {"oneOf": refs}
    part = f"{PREFIX}ChatCompletionRequestMessageContentPart"
    image = schemas["ChatCompletionRequestMessageContentPartImage"]["properties"]["image_url"]
    image["properties"]["url"] = {"enum": [RED]}
    schemas["ChatCompletionRequestMessageContentPartText"]["properties"]["text"] = TEXT
    parts = {
        "User": ("Text", "Image"),
        "System": ("Text",),
        "Developer": ("Text",),
        "Assistant": ("Text", "Refusal"),
    }
    for role, kinds in parts.items():
        properties = schemas[f"ChatCompletionRequest{role}Message"]["properties"]
        items = {"anyOf": [{"$ref": part + kind} for kind in kinds]}
        listed = {"type": "array", "minItems": 1, "maxItems": 2, "items": items}
        properties["content"] = {"anyOf": [TEXT, listed]}
        for name in (*UNSUPPORTED_IN_MESSAGE, "tool_calls"):
            properties.pop(name, None)


def _closed(node: Any) -> Any:
    """Objects without further properties: this server refuses fields that it does not know."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    shut = {"additionalProperties": False} if isinstance(node.get("properties"), dict) else {}
    return {
        **shut,
        **{key: _closed(value) for key, value in node.items() if key != "enum"},
        **_kept(node),
    }


def _kept(node: dict[str, Any]) -> dict[str, Any]:
    """Values, which are no schemas."""
    return {"enum": node["enum"]} if "enum" in node else {}


def _reachable(made: dict[str, Any]) -> dict[str, Any]:
    """Only the schemas that something refers to."""
    schemas = made["components"]["schemas"]
    kept = {name: schemas[name] for name in _reachable_from(_refs(made["paths"]), schemas)}
    return {**made, "components": {"schemas": kept}}


def _reachable_from(names: set[str], schemas: Schemas) -> set[str]:
    found: set[str] = set()
    wanted = set(names)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted |= _refs(schemas[name])
    return found


def _refs(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for item in node for name in _refs(item)}
    if not isinstance(node, dict):
        return set()
    found = {name for value in node.values() for name in _refs(value)}
    ref = node.get("$ref")
    return found | {ref.removeprefix(PREFIX)} if isinstance(ref, str) else found
