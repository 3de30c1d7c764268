"""``/openapi.json``: what the routes take and give, as the code that does it says.

Routes read their bodies themselves, under limits, so that these schemas are put in by hand, from
the same models that check them. FastAPI's own 422 is never sent and is taken out.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from server.api.chat_objects import ChatChunk
from server.api.completion_schema import CompletionRequest, DetokenizeRequest, TokenizeRequest
from server.api.errors import ErrorBody
from server.api.responses.events import ResponseEvent
from server.api.responses.schema import ResponseRequest
from server.api.schema import ChatRequest
from server.api.wire import Wire

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
BODIES: dict[str, type[Wire]] = {
    CHAT: ChatRequest,
    COMPLETIONS: CompletionRequest,
    RESPONSES: ResponseRequest,
    TOKENIZE: TokenizeRequest,
    DETOKENIZE: DetokenizeRequest,
}
_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "Malformed, or something this server does not do; `param` names the field",
    401: "The API key is missing or wrong",
    404: "No such model or route",
    408: "The body did not arrive in time",
    413: "The body is too large",
    429: "The waiting line is full; see Retry-After",
    500: "Our own fault; the request id finds it in the log",
    503: "Loading, draining or stopped",
}

GUARD = "apiKey"

Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """The documentation of error answers."""
    return {status: {"model": ErrorBody, "description": _ERRORS[status]} for status in statuses}


def answer(model: type, *statuses: int) -> Responses:
    """The documentation of a plain answer and its errors."""
    return {200: {"model": model, "description": "The answer"}, **errors(*statuses)}


def stream_responses(model: type) -> Responses:
    """The documentation of a generating route's answers."""
    done: dict[str, Any] = {
        "model": model,
        "description": "The answer; with `stream`, chunks as server-sent events",
        "content": {"text/event-stream": {}},  # OpenAPI 3.1 has no words for events
    }
    return {200: done, **errors(*_ERRORS)}


def install_schema(app: FastAPI, guarded: bool) -> None:
    """Make ``app.openapi()`` tell the truth; ``guarded`` if routes ask for a key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
            if guarded:
                schemes = {GUARD: {"type": "http", "scheme": "bearer"}}
                app.openapi_schema["components"]["securitySchemes"] = schemes
                app.openapi_schema["security"] = [{GUARD: []}]
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components.pop("HTTPValidationError", None)
    components.pop("ValidationError", None)
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    components |= _streamed()
    for path, model in BODIES.items():
        name = model.__name__
        components |= _component(name, model.model_json_schema(ref_template=_REF))
        schema["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=name)}}},
        }
    return schema


def _component(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = schema.pop("$defs", {})
    return {**nested, name: schema}


def _streamed() -> dict[str, Any]:
    """Events of streams, for readers of the page; no route can refer to them."""
    kinds: dict[str, Any] = {"ChatChunk": ChatChunk, "ResponseEvent": ResponseEvent}
    return {
        part: schema
        for name, kind in kinds.items()
        for part, schema in _component(
            name, TypeAdapter(kind).json_schema(ref_template=_REF)
        ).items()
    }
