"""Tool calls read from text, whatever the pieces it comes in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.toolcalls import CallPart, ToolCallReader

NAMES = ("look", "find")


def call(name: str, arguments: object) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def read(pieces: list[str], calls_lead: bool = False) -> tuple[str, list[tuple[str, str]]]:
    reader = ToolCallReader(NAMES, calls_lead)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.flush()
    text, calls = "", list[tuple[str, str]]()
    for part in parts:
        if isinstance(part, str):
            text += part
        elif part.name is not None:
            assert part.index == len(calls)
            calls.append((part.name, part.arguments))
        else:
            name, so_far = calls[part.index]
            calls[part.index] = (name, so_far + part.arguments)
    assert reader.calls == len(calls)
    return text, calls


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("no call", ("no call", [])),
        (" spaces stay \n", (" spaces stay \n", [])),
        ("a < b <tool", ("a < b <tool", [])),
        (call("look", {"a": 1}), ("", [("look", '{"a": 1}')])),
        ("Well.\n" + call("look", {}), ("Well.", [("look", "{}")])),
        (
            call("look", {"a": '}"{'}) + "\n" + call("find", {"b": [{}]}),
            ("", [("look", '{"a": "}\\"{"}'), ("find", '{"b": [{}]}')]),
        ),
        (
            '<tool_call>{"arguments": {"a": 1}, "name": "look"}</tool_call>',
            ("", [("look", '{"a": 1}')]),
        ),
        (call("rob", {"a": 1}), (call("rob", {"a": 1}), [])),
        (
            "<tool_call>\nnot json\n</tool_call> more",
            ("<tool_call>\nnot json\n</tool_call> more", []),
        ),
        ('<tool_call>\n{"name": "look', ('<tool_call>\n{"name": "look', [])),
        ('<tool_call>\n{"name": "look", "arguments": {"a": [1', ("", [("look", '{"a": [1')])),
        (call("look", {}) + "after", ("after", [("look", "{}")])),
        ("<tool_call>[1]</tool_call>", ("<tool_call>[1]</tool_call>", [])),
    ],
)
def test_calls_are_told_from_text(text: str, wanted: tuple[str, list[tuple[str, str]]]) -> None:
    assert read([text]) == wanted
    assert read(list(text)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (call("look", {}), ("", [("look", "{}")])),
        (" \n" + call("look", {}) + call("find", {}), ("", [("look", "{}"), ("find", "{}")])),
        ('{"a": "b"}', ('{"a": "b"}', [])),
        ("Hm." + call("look", {}), ("Hm." + call("look", {}), [])),
        (" <tool", (" <tool", [])),
        ("", ("", [])),
    ],
)
def test_where_calls_lead_all_else_is_text(
    text: str, wanted: tuple[str, list[tuple[str, str]]]
) -> None:
    assert read([text], calls_lead=True) == wanted
    assert read(list(text), calls_lead=True) == wanted


# Characters on which a reader may stumble, in strings as in keys; drawn flat, which is cheap.
TEXT = st.text(alphabet='{}[]"\\\n<é a', max_size=6)
VALUES = st.one_of(st.none(), st.integers(-9, 9), TEXT, st.lists(TEXT, max_size=2))
ARGUMENTS = st.dictionaries(TEXT, VALUES | st.dictionaries(TEXT, TEXT, max_size=2), max_size=2)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), max_size=2),
    st.lists(st.integers(1, 30), max_size=12),
)
def test_pieces_change_nothing(calls: list[tuple[str, dict[str, object]]], cuts: list[int]) -> None:
    text = "Hm." + "\n".join(call(name, arguments) for name, arguments in calls)
    pieces, at = list[str](), 0
    for cut in cuts:
        pieces.append(text[at : at + cut])
        at += cut
    said, found = read([*pieces, text[at:]])
    assert said == "Hm."
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_arguments_come_as_they_grow() -> None:
    reader = ToolCallReader(NAMES)
    reader.push('<tool_call>\n{"name": "look", "arguments": ')
    assert reader.push('{"a"') == [CallPart(0, "look"), CallPart(0, None, '{"a"')]
    assert reader.push(": 1}") == [CallPart(0, None, ": 1}")]
    assert reader.push("}\n</tool_call>") == []
