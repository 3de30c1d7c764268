"""JSON object → a request, or a 400 that names the field as the client wrote it.

Two steps. First what OpenAI knows and this server does not do: allowed only with the value that
asks for nothing. Then the schema, whose first error is told in one sentence with a path like
``messages[0].content[1].image_url.url``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.api.completion_schema import CompletionRequest, DetokenizeRequest, TokenizeRequest
from server.api.errors import ApiError, bad_request
from server.api.responses.items import KINDS
from server.api.responses.schema import ResponseRequest
from server.api.schema import ChatRequest, DyvteObject
from server.api.wire import Wire

M = TypeVar("M", bound=Wire)

# Field → the values besides null that ask for nothing.
UNSUPPORTED: Mapping[str, Sequence[object]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
UNSUPPORTED_IN_TEXT: Mapping[str, Sequence[object]] = {"suffix": ("",), "use_beam_search": (False,)}
UNSUPPORTED_IN_RESPONSE: Mapping[str, Sequence[object]] = {
    "background": (False,),
    "context_management": (),
    "conversation": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
NOT_STORED = {
    "item_reference": "nothing is stored here to refer to; send the item itself",
    "reasoning": "no model here reasons apart from its answer; leave the item out",
}
GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
UNSUPPORTED_IN_MESSAGE: Mapping[str, Sequence[object]] = {
    "audio": (),
    "function_call": (),
}


def parse_chat(raw: Mapping[str, Any]) -> ChatRequest:
    """The request in ``raw``. Raises ApiError (400)."""
    wire = _without_unsupported(raw, UNSUPPORTED, "", ChatRequest.model_fields)
    messages = raw.get("messages")
    if isinstance(messages, list):
        wire["messages"] = [
            _without_unsupported(message, UNSUPPORTED_IN_MESSAGE, f"messages[{i}].", ())
            if isinstance(message, dict) and message.get("role") == "assistant"
            else message
            for i, message in enumerate(messages)
        ]
    return _validated(ChatRequest, wire)


def parse_response(raw: Mapping[str, Any]) -> ResponseRequest:
    """The request in ``raw``. Raises ApiError (400)."""
    wire = _without_unsupported(raw, UNSUPPORTED_IN_RESPONSE, "", ResponseRequest.model_fields)
    items = raw.get("input")
    if isinstance(items, list):
        wire["input"] = [_item(item, f"input[{i}]") for i, item in enumerate(items)]
    return _validated(ResponseRequest, wire)


def _item(item: object, path: str) -> object:
    """``item`` without a file by its id, which nothing here has."""
    if not isinstance(item, dict):
        return item
    bare = "item_reference" if "id" in item and "role" not in item else "message"
    kind = bare if item.get("type") is None else item["type"]
    if isinstance(kind, str) and kind in NOT_STORED:
        message = f"'{path}' is of type '{kind}': {NOT_STORED[kind]}."
        raise bad_request(message, path, "unsupported_parameter")
    if kind not in KINDS:
        known = ", ".join(f"'{each}'" for each in KINDS)
        raise bad_request(f"Invalid '{path}.type': expected one of {known}.", f"{path}.type")
    parts = item.get("content")
    if not isinstance(parts, list):
        return item
    content = [
        _without_unsupported(part, {"file_id": ()}, f"{path}.content[{at}].", ())
        if isinstance(part, dict)
        else part
        for at, part in enumerate(parts)
    ]
    return {**item, "content": content}


def parse_completion(raw: Mapping[str, Any]) -> CompletionRequest:
    """The request in ``raw``. Raises ApiError (400)."""
    wire = _without_unsupported(raw, UNSUPPORTED_IN_TEXT, "", ())
    best = wire.pop("best_of", None)
    if best is not None and best != (raw.get("n") or 1):
        raise bad_request(
            "'best_of' is not supported by this server; use 'n'.",
            "best_of",
            "unsupported_parameter",
        )
    return _validated(CompletionRequest, wire)


def parse_tokenize(raw: Mapping[str, Any]) -> TokenizeRequest:
    """The request in ``raw``. Raises ApiError (400)."""
    return _validated(TokenizeRequest, dict(raw))


def parse_detokenize(raw: Mapping[str, Any]) -> DetokenizeRequest:
    """The request in ``raw``. Raises ApiError (400)."""
    return _validated(DetokenizeRequest, dict(raw))


def _validated(model: type[M], wire: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(wire)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _told(first, wire) from error


def _without_unsupported(
    raw: Mapping[str, Any],
    table: Mapping[str, Sequence[object]],
    prefix: str,
    keep: Sequence[str] | Mapping[str, object],
) -> dict[str, Any]:
    kept = dict(raw)
    for name, neutral in table.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, allowed) for allowed in neutral):
            path = f"{prefix}{name}"
            raise bad_request(
                f"'{path}' is not supported by this server with this value; leave it out.",
                param=path,
                code="unsupported_parameter",
            )
        if name not in keep:
            kept.pop(name, None)
    return kept


def _same(value: object, allowed: object) -> bool:
    """Equality that keeps ``false`` apart from 0 and ``true`` from 1."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed


def _told(error: ErrorDetails, raw: Mapping[str, Any]) -> ApiError:
    path = _path(error, raw)
    kind = error["type"]
    if kind == "missing":
        return bad_request(f"Missing required parameter: '{path}'.", path, "missing_parameter")
    if kind == "extra_forbidden":
        hint = _hint(path)
        return bad_request(
            f"Unrecognized request argument supplied: {path}.{hint}", path, "unknown_parameter"
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = error.get("ctx", {}).get("expected_tags")
        wanted = f"expected one of {expected}" if expected else "is required"
        return bad_request(f"Invalid '{path}': {wanted}.", path)
    if kind in ("model_type", "model_attributes_type"):
        return bad_request(f"Invalid '{path}': must be an object.", path)
    reason = error["msg"][:1].lower() + error["msg"][1:]
    return bad_request(f"Invalid '{path}': {reason}.", path)


def _hint(path: str) -> str:
    """What the caller may have meant."""
    if path.count(".") == 1 and path.startswith("dyvte."):
        return f" Known are {', '.join(DyvteObject.model_fields)}."
    if path in GUIDED:  # vLLM's names until 0.11
        return f" Use structured_outputs.{path.removeprefix('guided_')}."
    return ""


def _path(error: ErrorDetails, raw: object) -> str:
    """The error's place in the client's own JSON: tags of unions are none of its keys."""
    path, here = "", raw
    loc = error["loc"]
    for depth, step in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, dict) and (step in here or (last and error["type"] == "missing")):
            path += f".{step}" if path else step
            here = here.get(step)
    if error["type"].startswith("union_tag"):
        field = str(error.get("ctx", {}).get("discriminator", "type")).strip("'")
        path += f".{field}" if field.isidentifier() else ""
    return path[:200]
