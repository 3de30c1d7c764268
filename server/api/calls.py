"""Tool calls on the wire: ids, deltas and the finish reason of an answer that calls."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from dyvte.params import FinishReason
from server.api.chat_objects import CallDelta, DeltaBody
from server.toolcalls import CallPart, Part, ToolCallReader


def call_id() -> str:
    """A new call's id."""
    return f"call_{uuid.uuid4().hex[:24]}"


def finish_of(reason: FinishReason, calls: int) -> str:
    """``tool_calls`` where a complete answer asks for some."""
    return "tool_calls" if calls and reason is FinishReason.STOP else reason.value


class DeltaWriter:
    """One choice's text as delta bodies: plain text, or text and calls where tools are told.

    ``calls_lead``: calls come first or not at all.
    """

    def __init__(self, tool_names: Collection[str], calls_lead: bool = False) -> None:
        self._reader = ToolCallReader(tool_names, calls_lead) if tool_names else None

    @property
    def calls(self) -> int:
        """Calls that have begun."""
        return self._reader.calls if self._reader else 0

    def write(self, text: str, last: bool) -> list[DeltaBody]:
        """The bodies that ``text`` makes; ``last``: nothing will follow."""
        if self._reader is None:
            return [{"content": text}] if text else []
        parts = self._reader.push(text)
        if last:
            parts += self._reader.flush()
        return [_body(part) for part in parts]


def _body(part: Part) -> DeltaBody:
    if isinstance(part, str):
        return {"content": part}
    return {"tool_calls": [_call(part)]}


def _call(part: CallPart) -> CallDelta:
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": call_id(),
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }
