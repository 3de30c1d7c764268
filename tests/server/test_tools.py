"""Tools over HTTP: told to the model, chosen by grammar, read from its answer, and told back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dyvte.structured import StructuredOutput
from dyvte.tools import calls_grammar
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body, events, text_of
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
FIND = {"type": "function", "function": {"name": "find", "strict": True}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "look"}}


def engine(answer: str) -> FakeEngine:
    return FakeEngine(answer=answer.encode())


def told(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return [call for delta in deltas for call in delta.get("tool_calls", [])]


async def test_a_call_is_told_whole(connect: Connect) -> None:
    async with connect(engine("I look.\n" + CALL + "\n" + CALL)) as client:
        reply = (await client.post(CHAT, json=body(tools=[LOOK]))).json()
    check("CreateChatCompletionResponse", reply)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look."
    first, second = choice["message"]["tool_calls"]
    assert first["function"] == {"name": "look", "arguments": '{"at": "é"}'}
    assert first["id"] != second["id"]


async def test_a_call_is_streamed_in_pieces(connect: Connect) -> None:
    async with connect(engine("Hm." + CALL)) as client:
        chunks = events(await client.post(CHAT, json=body(tools=[LOOK], stream=True)))
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    first, *rest = told(chunks)
    assert first["function"]["name"] == "look"
    assert first["type"] == "function"
    assert all("id" not in call and "name" not in call["function"] for call in rest)
    assert len(rest) > 3
    arguments = "".join(call["function"]["arguments"] for call in [first, *rest])
    assert json.loads(arguments) == {"at": "é"}
    assert text_of(chunks) == "Hm."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_answer_without_calls_stays_text(connect: Connect) -> None:
    async with connect(engine("a < b <tool")) as client:
        reply = (await client.post(CHAT, json=body(tools=[LOOK]))).json()
        chunks = events(await client.post(CHAT, json=body(tools=[LOOK], stream=True)))
    assert reply["choices"][0]["message"]["content"] == text_of(chunks) == "a < b <tool"
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_a_call_cut_by_its_length_says_length(connect: Connect) -> None:
    async with connect(engine(CALL)) as client:
        reply = (await client.post(CHAT, json=body(tools=[LOOK], max_tokens=52))).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].startswith("{")


async def test_log_probabilities_come_with_calls(connect: Connect) -> None:
    fields = {"tools": [LOOK], "logprobs": True, "stream": True}
    async with connect(engine(CALL)) as client:
        chunks = events(await client.post(CHAT, json=body(**fields)))
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert sum(len(choice["logprobs"]["content"]) for choice in choices) == len(CALL.encode())


@pytest.mark.parametrize(
    ("fields", "tools", "grammar"),
    [
        ({"tools": [LOOK]}, 1, None),
        ({"tools": [LOOK], "tool_choice": "auto", "parallel_tool_calls": True}, 1, None),
        ({"tools": [LOOK], "tool_choice": "none"}, 0, None),
        ({"tools": [], "tool_choice": "auto"}, 0, None),
        ({"tools": [LOOK, FIND], "tool_choice": "required"}, 2, (2, True, False)),
        ({"tools": [LOOK, FIND], "tool_choice": NAMED}, 2, (1, False, False)),
        ({"tools": [LOOK, FIND]}, 2, (2, True, True)),
        ({"tools": [LOOK], "parallel_tool_calls": False}, 1, (1, False, True)),
    ],
)
async def test_the_choice_of_tool_reaches_the_engine(
    connect: Connect,
    fields: dict[str, Any],
    tools: int,
    grammar: tuple[int, bool, bool] | None,
) -> None:
    fake = FakeEngine()
    async with connect(fake) as client:
        assert (await client.post(CHAT, json=body(**fields))).status_code == 200
    (given,) = fake.tools
    assert len(given) == tools
    count, several, unasked = grammar or (0, False, False)
    wanted = calls_grammar(given[:count], several, unasked) if grammar else None
    assert fake.requests[0].sampling.structured_output == wanted


JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"tool_choice": "none"}, StructuredOutput.json()),
        ({"tools": [], "tool_choice": None}, StructuredOutput.json()),
        ({}, (True, True, StructuredOutput.json())),
        ({"parallel_tool_calls": False}, (False, True, StructuredOutput.json())),
        ({"tool_choice": "required"}, (True, False, None)),
        ({"tool_choice": NAMED}, (False, False, None)),
    ],
)
async def test_beside_tools_a_form_holds_for_answers_that_do_not_call(
    connect: Connect, fields: dict[str, Any], wanted: Any
) -> None:
    fake = FakeEngine()
    async with connect(fake) as client:
        reply = await client.post(CHAT, json=body(**{"tools": [LOOK], **JSON, **fields}))
        assert reply.status_code == 200
    if isinstance(wanted, tuple):
        wanted = calls_grammar(fake.tools[0], *wanted)
    assert fake.requests[0].sampling.structured_output == wanted
    assert set(fake.compiled) == {StructuredOutput.json(), wanted}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "text", "calls", "reason"),
    [
        (CALL + "\n" + CALL, "", 2, "tool_calls"),
        ('{"a": "b"}', '{"a": "b"}', 0, "stop"),
        ('["' + CALL.replace('"', "'") + '"]', '["' + CALL.replace('"', "'") + '"]', 0, "stop"),
        (f"({CALL})", f"({CALL})", 0, "stop"),
    ],
)
async def test_an_answer_of_a_form_stays_one_text(
    connect: Connect, answer: str, text: str, calls: int, reason: str, stream: bool
) -> None:
    """Calls come first or not at all: what looks like one inside a form is the form's."""
    fields = body(tools=[LOOK], stream=stream, **JSON)
    async with connect(engine(answer)) as client:
        reply = await client.post(CHAT, json=fields)
    if stream:
        chunks = events(reply)
        for chunk in chunks:
            check("CreateChatCompletionStreamResponse", chunk)
        assert text_of(chunks) == text
        assert len([call for call in told(chunks) if "id" in call]) == calls
        assert chunks[-1]["choices"][0]["finish_reason"] == reason
    else:
        check("CreateChatCompletionResponse", reply.json())
        (choice,) = reply.json()["choices"]
        assert (choice["message"]["content"] or "") == text
        assert len(choice["message"].get("tool_calls", ())) == calls
        assert choice["finish_reason"] == reason


async def test_a_conversation_with_calls_reaches_the_engine(connect: Connect) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}]},
    ]
    fake = FakeEngine()
    async with connect(fake) as client:
        reply = await client.post(CHAT, json={**body(), "messages": messages, "tools": [LOOK]})
    assert reply.status_code == 200
    assert fake.messages[0][1]["tool_calls"] == [{"name": "look", "arguments": {"a": 1}}]
    assert fake.messages[0][2]["role"] == "tool"


def conversation(call_id: str = "c1", arguments: str = "{}") -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    return {
        "messages": [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": "seen"},
        ]
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [LOOK, LOOK]}, "tools[1].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tools": [FIND], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [FIND], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [FIND], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        (
            {
                "tools": [LOOK],
                "tool_choice": "required",
                "structured_outputs": {"regex": "("},
            },
            "structured_outputs.regex",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "x", "parameters": {"type": "null"}}}
                ]
            },
            "tools[0].function.parameters",
        ),
        (conversation(arguments="{"), "messages[0].tool_calls[0].function.arguments"),
        (conversation(arguments="[]"), "messages[0].tool_calls[0].function.arguments"),
        (conversation(call_id="c2"), "messages[1].tool_call_id"),
    ],
)
async def test_what_does_not_fit_is_named(
    connect: Connect, fields: dict[str, Any], param: str
) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json={**body(), **fields})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
