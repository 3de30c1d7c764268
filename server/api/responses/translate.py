"""A request to ``/v1/responses`` → the chat request that asks for the same."""

from __future__ import annotations

from server.api.errors import bad_request
from server.api.messages import (
    Function,
    FunctionRef,
    NamedTool,
    ToolChoiceField,
    ToolObject,
)
from server.api.responses.conversation import Conversation
from server.api.responses.names import Names
from server.api.responses.schema import (
    FunctionChoice,
    FunctionTool,
    NamedSchemaFormat,
    ResponseRequest,
    TextOptions,
)
from server.api.sampling import over
from server.api.schema import ChatRequest, JsonSchemaFormat, ResponseFormat, TokenFields
from server.settings import Settings


def chat_of(request: ResponseRequest, names: Names, settings: Settings) -> ChatRequest:
    """The chat; ``names`` learns what its parts are called here. Raises ApiError (400)."""
    if not isinstance(request.input, str) and len(request.input) > settings.max_messages:
        raise over("input", "items", settings.max_messages)
    if request.top_logprobs and not request.logprobs:
        message = "'top_logprobs' needs 'include' to name 'message.output_text.logprobs'."
        raise bad_request(message, "top_logprobs")
    for index, _ in enumerate(request.tools or ()):
        names.add(f"tools[{index}].function", f"tools[{index}]")
    shared = {name: getattr(request, name) for name in TokenFields.model_fields}
    # Its parts have been checked in their own words; the chat's words would name other fields.
    return ChatRequest.model_construct(
        **shared,
        messages=_conversation(request, names).messages(),
        max_completion_tokens=request.max_output_tokens,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs if request.logprobs else None,
        response_format=_format(request.text),
        tools=[_tool(tool) for tool in request.tools or ()] or None,
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
    )


def _conversation(request: ResponseRequest, names: Names) -> Conversation:
    conversation = Conversation(names)
    if request.instructions is not None:
        conversation.instruct(request.instructions, "instructions")
    if isinstance(request.input, str):
        conversation.ask(request.input, "input")
    else:
        for index, item in enumerate(request.input):
            conversation.item(item, f"input[{index}]")
    return conversation


def _format(text: TextOptions | None) -> ResponseFormat | None:
    given = text.format if text else None
    if not isinstance(given, NamedSchemaFormat):
        return given
    schema = given.model_dump(exclude={"type"}, by_alias=True)
    return JsonSchemaFormat.model_validate({"type": "json_schema", "json_schema": schema})


def _tool(tool: FunctionTool) -> ToolObject:
    function = Function(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )
    return ToolObject(type="function", function=function)


def _choice(request: ResponseRequest) -> ToolChoiceField | None:
    choice = request.tool_choice
    if not isinstance(choice, FunctionChoice):
        return choice
    return NamedTool(type="function", function=FunctionRef(name=choice.name))
