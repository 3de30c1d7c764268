"""The text of an answer → output items, and the events that tell how they grow.

Whole and streamed replies are written by the same hand: one keeps the items, the other sends the
events. An item is open while text or arguments go on, and the next one closes it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from dyvte.params import FinishReason
from server.api.calls import call_id
from server.api.chat_objects import TokenLogprob
from server.api.reply import ReplyContext
from server.api.responses.events import ResponseEvent
from server.api.responses.reply import (
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
)
from server.detokenize import ShownToken
from server.generate import Delta
from server.toolcalls import CallPart, Part, ToolCallReader


@dataclass(slots=True)
class _Message:
    """A message that goes on."""

    id: str
    said: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def part(self) -> OutputText:
        text, logprobs = "".join(self.said), list(self.logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def item(self, status: ItemStatus, content: list[OutputText]) -> OutputMessage:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }


@dataclass(slots=True)
class _Call:
    """A call whose arguments go on."""

    id: str
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def item(self, status: ItemStatus) -> FunctionCall:
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self.arguments),
            "status": status,
        }


class OutputWriter:
    """Writes one answer. ``output`` holds the items that are done."""

    def __init__(self, context: ReplyContext) -> None:
        names = context.tool_names
        self.output: list[OutputItem] = []
        self._context = context
        self._reader = ToolCallReader(names, context.calls_lead) if names else None
        self._numbers = itertools.count()
        self._open: _Message | _Call | None = None
        self._untold: list[ShownToken] = []  # tokens whose text is held back

    def number(self) -> int:
        """The next event's."""
        return next(self._numbers)

    def write(self, delta: Delta) -> list[ResponseEvent]:
        """What ``delta`` adds; the last one closes what is open."""
        if self._context.logprobs:
            self._untold += delta.tokens
        last = delta.finish_reason is not None
        events = [event for part in self._parts(delta.text, last) for event in self._told(part)]
        if isinstance(self._open, _Call):
            self._untold.clear()
        if last:
            events += self._end(delta.finish_reason is FinishReason.LENGTH)
        return events

    def _parts(self, text: str, last: bool) -> Sequence[Part]:
        if self._reader is None:
            return [text] if text else []
        return [*self._reader.push(text), *(self._reader.flush() if last else ())]

    def _told(self, part: Part) -> list[ResponseEvent]:
        return self._say(part) if isinstance(part, str) else self._call(part)

    def _end(self, cut: bool) -> list[ResponseEvent]:
        """An answer without any item is an empty message."""
        events: list[ResponseEvent] = []
        if self._untold or not (self.output or self._open):
            events += self._say("")
        return events + self._close("incomplete" if cut else "completed")

    def _say(self, text: str) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        if not isinstance(self._open, _Message):
            events += self._close() + self._open_message()
        message = self._open
        assert isinstance(message, _Message)
        logprobs = self._context.logprobs_of(tuple(self._untold))["content"]
        self._untold.clear()
        message.said.append(text)
        message.logprobs += logprobs
        if text or logprobs:
            events.append(
                {
                    "type": "response.output_text.delta",
                    "sequence_number": self.number(),
                    "item_id": message.id,
                    "output_index": len(self.output),
                    "content_index": 0,
                    "delta": text,
                    "logprobs": logprobs,
                }
            )
        return events

    def _open_message(self) -> list[ResponseEvent]:
        message = self._open = _Message(_id("msg"))
        return [
            self._item(message.item("in_progress", [])),
            {
                "type": "response.content_part.added",
                "sequence_number": self.number(),
                "item_id": message.id,
                "output_index": len(self.output),
                "content_index": 0,
                "part": message.part(),
            },
        ]

    def _call(self, part: CallPart) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        if part.name is not None:
            events += self._close()
            call = self._open = _Call(_id("fc"), call_id(), part.name)
            events.append(self._item(call.item("in_progress")))
        call_ = self._open
        assert isinstance(call_, _Call), "arguments follow a name"
        if part.arguments:
            call_.arguments.append(part.arguments)
            events.append(
                {
                    "type": "response.function_call_arguments.delta",
                    "sequence_number": self.number(),
                    "item_id": call_.id,
                    "output_index": len(self.output),
                    "delta": part.arguments,
                }
            )
        return events

    def _close(self, status: ItemStatus = "completed") -> list[ResponseEvent]:
        """Nothing follows in the open item."""
        item, self._open = self._open, None
        if item is None:
            return []
        if isinstance(item, _Message):
            return self._close_message(item, status)
        done = item.item(status)
        events: list[ResponseEvent] = [
            {
                "type": "response.function_call_arguments.done",
                "sequence_number": self.number(),
                "item_id": item.id,
                "output_index": len(self.output),
                "name": item.name,
                "arguments": done["arguments"],
            },
            self._item(done, done=True),
        ]
        self.output.append(done)
        return events

    def _close_message(self, message: _Message, status: ItemStatus) -> list[ResponseEvent]:
        part = message.part()
        done = message.item(status, [part])
        events: list[ResponseEvent] = [
            {
                "type": "response.output_text.done",
                "sequence_number": self.number(),
                "item_id": message.id,
                "output_index": len(self.output),
                "content_index": 0,
                "text": part["text"],
                "logprobs": part["logprobs"],
            },
            {
                "type": "response.content_part.done",
                "sequence_number": self.number(),
                "item_id": message.id,
                "output_index": len(self.output),
                "content_index": 0,
                "part": part,
            },
            self._item(done, done=True),
        ]
        self.output.append(done)
        return events

    def _item(self, item: OutputItem, done: bool = False) -> ResponseEvent:
        return {
            "type": "response.output_item.done" if done else "response.output_item.added",
            "sequence_number": self.number(),
            "output_index": len(self.output),
            "item": item,
        }


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
