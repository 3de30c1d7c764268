"""Tools of a request: OpenAI's objects → the library's, and what calls must look like.

``required`` and a named function are kept by a grammar; ``auto`` leaves the model free unless a
function is ``strict``, whose calls then keep to its schema, or the answer must have a form, beside
which calls are the only other thing that it may be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyvte.errors import OptionError
from dyvte.structured import StructuredOutput
from dyvte.tools import Tool, calls_grammar, check_tool
from server.api.errors import bad_request
from server.api.form import Form, form_error
from server.api.messages import AssistantMessage, NamedTool, ToolMessage
from server.api.schema import ChatRequest


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The functions told to the model, and what its answer must look like (None: whatever).

    ``calls_lead``: an answer that does not begin with a call holds none.
    """

    tools: tuple[Tool, ...] = ()
    form: Form | None = None
    calls_lead: bool = False


def choose_tools(request: ChatRequest, answer: Form | None = None) -> ToolChoice:
    """What the request's tools come to, where free answers must be of the form ``answer``.

    Raises ApiError (400).
    """
    choice = request.tool_choice
    tools = _tools(request)
    if not tools:
        if isinstance(choice, NamedTool) or choice == "required":
            raise bad_request("'tool_choice' needs 'tools'.", "tool_choice")
        return ToolChoice(form=answer)
    if choice == "none":
        return ToolChoice(form=answer)
    several = request.parallel_tool_calls is not False
    if isinstance(choice, NamedTool):
        wanted = choice.function.name
        named = tuple(tool for tool in tools if tool.name == wanted)
        if not named:
            raise bad_request(f"'tool_choice' names '{wanted}', which is no tool.", "tool_choice")
        return ToolChoice(tools, _form(named, several=False))
    if choice == "required":
        return ToolChoice(tools, _form(tools, several))
    if answer is not None:
        return ToolChoice(tools, _form(tools, several, True, answer.wanted), calls_lead=True)
    if not several or any(tool.strict for tool in tools):
        return ToolChoice(tools, _form(tools, several, unasked=True))
    return ToolChoice(tools)


def check_conversation(request: ChatRequest) -> None:
    """Every tool's answer belongs to a call before it. Raises ApiError (400)."""
    open_ids: set[str] = set()
    for index, message in enumerate(request.messages):
        if isinstance(message, AssistantMessage):
            open_ids = {call.id for call in message.tool_calls or ()}
        elif isinstance(message, ToolMessage):
            if message.tool_call_id not in open_ids:
                path = f"messages[{index}].tool_call_id"
                raise bad_request(f"Invalid '{path}': no call before it has this id.", path)
        else:
            open_ids = set()


def calls_of(message: AssistantMessage, index: int) -> list[Mapping[str, Any]]:
    """The calls of an earlier answer, their arguments as objects. Raises ApiError (400)."""
    calls: list[Mapping[str, Any]] = []
    for at, call in enumerate(message.tool_calls or ()):
        path = f"messages[{index}].tool_calls[{at}].function.arguments"
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise bad_request(f"Invalid '{path}': must be JSON.", path) from error
        if not isinstance(arguments, dict):
            raise bad_request(f"Invalid '{path}': must be a JSON object.", path)
        calls.append({"name": call.function.name, "arguments": arguments})
    return calls


def _tools(request: ChatRequest) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, given in enumerate(request.tools or ()):
        function, path = given.function, f"tools[{index}].function"
        if any(tool.name == function.name for tool in tools):
            raise bad_request(f"Invalid '{path}.name': is given twice.", f"{path}.name")
        tool = Tool(function.name, function.description, strict=bool(function.strict))
        if function.parameters is not None:
            tool = Tool(tool.name, tool.description, function.parameters, tool.strict)
        try:
            check_tool(tool)
        except OptionError as error:
            raise form_error(f"{path}.parameters", error.message) from error
        tools.append(tool)
    return tuple(tools)


def _form(
    tools: tuple[Tool, ...],
    several: bool,
    unasked: bool = False,
    answer: StructuredOutput | None = None,
) -> Form:
    try:
        return Form(calls_grammar(tools, several, unasked, answer), "tools")
    except OptionError as error:
        raise form_error("tools", error.message) from error
