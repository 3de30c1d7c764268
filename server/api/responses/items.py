"""The items of a request to ``/v1/responses``: messages, calls and what calls returned.

Strict, like all bodies. What an earlier answer carried besides its text (ids, states, annotations,
log-probabilities) may come back and is not read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.messages import CacheBreakpoint, FunctionName, RefusalPart
from server.api.wire import Wire, form_of

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Wire):
    """``{"type": "input_text", "text": …}``."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputImage(Wire):
    """An image by its URL, and how finely to look at it."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class SaidText(Wire):
    """What an earlier answer said."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None


UserPart = Annotated[InputText | InputImage, Field(discriminator="type")]
AssistantPart = Annotated[SaidText | InputText | RefusalPart, Field(discriminator="type")]
PlainPart = Annotated[InputText, Field()]

UserContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[UserPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]
AssistantContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[AssistantPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]
PlainContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[PlainPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]


class MessageItem(Wire):
    """What all messages may carry."""

    type: Literal["message"] | None = None
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class UserItem(MessageItem):
    """What the user says and shows."""

    role: Literal["user"]
    content: UserContent


class SystemItem(MessageItem):
    """Instructions."""

    role: Literal["system", "developer"]
    content: PlainContent


class AssistantItem(MessageItem):
    """An earlier answer."""

    role: Literal["assistant"]
    content: AssistantContent


class CallItem(Wire):
    """A call in an earlier answer; ``arguments`` is JSON, as the model wrote it."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: FunctionName
    arguments: str
    status: Status | None = None
    caller: None = None
    namespace: None = None


class CallOutputItem(Wire):
    """What a called function returned."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str
    output: PlainContent
    status: Status | None = None
    caller: None = None
    name: None = None
    namespace: None = None


KINDS = ("message", "function_call", "function_call_output")


def item_form(value: object) -> str:
    """The tag of an item; one without a type is a message."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return str(kind) if kind is not None else "message"


Item = Annotated[
    Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role"), Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")],
    Discriminator(item_form),
]
