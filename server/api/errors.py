"""Every failure in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``.

The one place that knows which status an error of the engine's becomes. A message never carries
internals: what we did wrong ourselves is told by request id only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict

from dyvte.errors import (
    DyvteError,
    EngineDied,
    EngineStopped,
    GrammarFailed,
    OptionError,
    PromptError,
    PromptTooLong,
    QueueFull,
)
from dyvte.params import SamplingParams
from server.deadline import Overdue

INVALID = "invalid_request_error"
SERVER = "server_error"
INVALID_PROMPT = "invalid_prompt"
_SAMPLING = {field.name for field in dataclasses.fields(SamplingParams)} | {"top_logprobs"}


class ErrorDetail(TypedDict):
    """What OpenAI's clients read of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every response that is an error."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error: status, OpenAI's four fields, and headers if any."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail: ErrorDetail = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The JSON body."""
        return orjson.dumps({"error": self.detail})

    def response(self) -> Response:
        """The HTTP response."""
        return Response(self.body, self.status, self.headers, "application/json")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: malformed, or something that this server does not do."""
    return ApiError(400, message, param=param, code=code)


def unauthorized(message: str) -> ApiError:
    """401: no key, or a wrong one."""
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def model_not_found(model: str, names: tuple[str, ...]) -> ApiError:
    """404: a model name that is not served; tells the names that are."""
    known = ", ".join(names)
    return ApiError(
        404,
        f"The model '{model[:200]}' does not exist here; served are {known}.",
        param="model",
        code="model_not_found",
    )


def body_too_large(limit: int) -> ApiError:
    """413: more bytes than the operator allows; the connection ends, the rest stays unread."""
    return ApiError(
        413,
        f"The request body is larger than {limit} bytes.",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def body_too_slow() -> ApiError:
    """408: the body did not arrive in time."""
    return ApiError(
        408,
        "The request body did not arrive in time.",
        code="request_timeout",
        headers={"Connection": "close"},
    )


def queue_full(retry_after_s: float) -> ApiError:
    """429: try again later."""
    message = "The server's waiting line is full; try again later."
    return _too_many(message, "queue_full", retry_after_s)


def key_limit(what: str, retry_after_s: float) -> ApiError:
    """429: more than this key may ask for."""
    message = f"This API key is limited to {what}; try again later."
    return _too_many(message, "rate_limit_exceeded", retry_after_s)


def _too_many(message: str, code: str, retry_after_s: float) -> ApiError:
    headers = {
        "Retry-After": str(max(1, math.ceil(retry_after_s))),
        "Retry-After-Ms": str(max(1, math.ceil(retry_after_s * 1000))),  # OpenAI's clients'
    }
    return ApiError(429, message, kind="rate_limit_error", code=code, headers=headers)


def overdue() -> ApiError:
    """408: the request's own deadline; the same request would meet it again."""
    return ApiError(
        408,
        "The request did not end within the time that it was given.",
        kind=SERVER,
        code="request_timeout",
        headers={"X-Should-Retry": "false"},
    )


def unavailable(message: str, code: str) -> ApiError:
    """503: loading, draining or stopped."""
    return ApiError(503, message, kind=SERVER, code=code, headers={"Retry-After": "2"})


def internal(request_id: str) -> ApiError:
    """500: our own fault; the id finds it in the log."""
    return ApiError(
        500,
        f"The server could not finish this request. Its id is {request_id}.",
        kind=SERVER,
        code="internal_error",
    )


def option_error(error: OptionError, where: str = "") -> ApiError:
    """400: a setting out of range, or one that does not fit the others or the model.

    The field is named as the client wrote it: OpenAI's names for sampling, ours below ``dyvte``.
    """
    param = error.field if error.field in _SAMPLING else f"dyvte.{error.field}"
    return bad_request(f"Invalid '{param}': {where}{error.message}.", param)


def from_engine(error: DyvteError, request_id: str, prompt: str = "messages") -> ApiError:
    """What an error of the engine's is on the wire; ``prompt`` is the client's name of it."""
    match error:
        case GrammarFailed():
            message = f"The answer could not be finished in the form asked for: {error}."
            return bad_request(message, code="structured_output_failed")
        case Overdue():
            return overdue()
        case QueueFull():
            return queue_full(error.retry_after_s)
        case EngineDied():
            return unavailable("The engine has stopped.", "engine_stopped")
        case EngineStopped():
            return unavailable("The server is shutting down.", "draining")
        case OptionError():
            return option_error(error)
        case PromptTooLong():
            return bad_request(str(error), prompt, "context_length_exceeded")
        case PromptError():
            return bad_request(str(error), prompt, INVALID_PROMPT)
        case _:
            return internal(request_id)


def of_status(status: int, method: str, path: str, headers: Mapping[str, str]) -> ApiError:
    """What the router itself raises (404, 405), said in OpenAI's words."""
    if status == 404:
        return ApiError(404, f"Invalid URL ({method} {path[:200]})", code="unknown_url")
    if status == 405:
        message = f"Not allowed to {method} on {path[:200]}"
        return ApiError(405, message, code="method_not_supported", headers=headers)
    return ApiError(status, "The request could not be handled.", headers=headers)
