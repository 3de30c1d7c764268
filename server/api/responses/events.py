"""The events of a streamed response, each with its number, as OpenAI names them."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from server.api.chat_objects import TokenLogprob
from server.api.responses.reply import OutputItem, OutputText, ResponseObject


class Numbered(TypedDict):
    """What all events have; the numbers of a stream go up by one."""

    sequence_number: int


class LifecycleEvent(Numbered):
    """The response as it begins and as it ends; the last one has the account."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(Numbered):
    """An item as it begins, empty, and as it ends, whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(Numbered):
    """The part of a message, likewise."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class TextDeltaEvent(Numbered):
    """Text that follows."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[TokenLogprob]


class TextDoneEvent(Numbered):
    """The text of a part, whole."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[TokenLogprob]


class ArgumentsDeltaEvent(Numbered):
    """Arguments that follow."""

    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(Numbered):
    """The arguments of a call, whole."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(Numbered):
    """What went wrong; ``response.failed`` follows."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


ResponseEvent = (
    LifecycleEvent
    | ItemEvent
    | PartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ErrorEvent
)
