"""What goes back from ``/v1/responses``: OpenAI's response object, with the ``dyvte`` account."""

from __future__ import annotations

import time
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from server.api.account import DyvteAccount, account_of
from server.api.chat_objects import TokenLogprob
from server.api.reply import ReplyContext
from server.api.responses.schema import ResponseRequest
from server.generations import Answering

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """What the model said."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLogprob]


class OutputMessage(TypedDict):
    """One message, with one part when it is done."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class FunctionCall(TypedDict):
    """A call that the model asks for; ``arguments`` is JSON text, cut where the answer was."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem = OutputMessage | FunctionCall


class InputDetails(TypedDict):
    """``usage.input_tokens_details``."""

    cached_tokens: int
    cache_write_tokens: int
    image_tokens: int
    text_tokens: int


class OutputDetails(TypedDict):
    """``usage.output_tokens_details``."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """``usage``; an exit never changes it."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFault(TypedDict):
    """Why a response failed after it had begun."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why an answer was cut."""

    reason: Literal["max_output_tokens"]


class ReasoningEcho(TypedDict):
    """There is none."""

    effort: None
    summary: None


class ToolEcho(TypedDict):
    """A function as the request told it."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class Echo(TypedDict):
    """What a response says of its request: the values in force."""

    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: ReasoningEcho
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[ToolEcho]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: NotRequired[str]


class ResponseObject(Echo):
    """The answer, as it is now; usage and account come when it has ended."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputItem]
    usage: NotRequired[ResponseUsage]
    dyvte: NotRequired[DyvteAccount]


def echo_of(request: ResponseRequest) -> Echo:
    """The echo, which keeps nothing of the input."""
    choice = request.tool_choice or "auto"
    form = request.text.format if request.text else None
    said: dict[str, Any] = form.model_dump(by_alias=True, exclude_none=True) if form else {}
    echo: Echo = {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": request.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": said or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": _tools(request),
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
    }
    if request.user is not None:
        echo["user"] = request.user
    return echo


def _tools(request: ResponseRequest) -> list[ToolEcho]:
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": bool(tool.strict),
        }
        for tool in request.tools or ()
    ]


def begun(context: ReplyContext, echo: Echo, output: list[OutputItem]) -> ResponseObject:
    """The response while it is made."""
    made: Any = {  # mypy cannot tell that the echo brings no usage
        **echo,
        "id": context.id,
        "object": "response",
        "created_at": context.created,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": output,
    }
    return cast(ResponseObject, made)


def ended(
    context: ReplyContext, echo: Echo, output: list[OutputItem], answering: Answering, cut: bool
) -> ResponseObject:
    """The response at its end; ``cut``: the model would have gone on."""
    made = begun(context, echo, output)
    made["status"] = "incomplete" if cut else "completed"
    if cut:
        made["incomplete_details"] = {"reason": "max_output_tokens"}
    else:
        made["completed_at"] = int(time.time())
    made["usage"] = _usage(context, answering)
    if answering.stats is not None and context.report != "none":
        made["dyvte"] = account_of(answering.stats, context.clock, context.report)
    return made


def failed(
    context: ReplyContext, echo: Echo, output: list[OutputItem], fault: ResponseFault
) -> ResponseObject:
    """The response that a fault ended."""
    made = begun(context, echo, output)
    made["status"] = "failed"
    made["error"] = fault
    return made


def _usage(context: ReplyContext, answering: Answering) -> ResponseUsage:
    usage = context.usage(answering)
    details = usage["prompt_tokens_details"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": details["cached_tokens"],
            "cache_write_tokens": 0,
            "image_tokens": details["image_tokens"],
            "text_tokens": details["text_tokens"],
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
