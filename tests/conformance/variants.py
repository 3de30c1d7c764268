"""What belongs together in a chat request, and so cannot be drawn field by field.

Each variant is a set of fields that need each other, all of them present; conversations with calls
and their results are given whole.
"""

from __future__ import annotations

from typing import Any

from tests.conformance.bodies import SCHEMA

TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "paint"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "Streamed": {
        "stream": {"enum": [True]},
        "stream_options": {"enum": [None, {"include_usage": True}, {"include_usage": False}]},
    },
    "Calling": {
        "tools": {"enum": [[TOOL]]},
        "tool_choice": {"enum": ["required", NAMED]},
        "stream": {"enum": [None, True]},
    },
    "Scored": {
        "logprobs": {"enum": [True]},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "stream": {"enum": [False, True]},
    },
}


def _call(name: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "paint", "arguments": "{}"}}


def _result(name: str, content: object = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content}


ASKED = {"role": "user", "content": "Paint."}
PARTS = [{"type": "text", "text": "painted "}, {"type": "text", "text": "red"}]
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [ASKED, {"role": "assistant", "tool_calls": [_call("a")]}, _result("a")],
    [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [_call("a"), _call("b")]},
        _result("b", PARTS),
        _result("a", ""),
        {"role": "user", "content": "And?"},
    ],
    [
        {"role": "system", "content": "You paint."},
        ASKED,
        {"role": "assistant", "content": "I do.", "refusal": None, "tool_calls": [_call("a")]},
        _result("a"),
        {"role": "assistant", "content": "It is red."},
        ASKED,
    ],
]
