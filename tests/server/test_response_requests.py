"""What ``/v1/responses`` takes is what a chat takes in other words, and errors keep to these."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.errors import ApiError
from server.api.responses.schema import ResponseRequest
from server.api.validation import UNSUPPORTED_IN_RESPONSE, parse_response
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check
from tests.server.response_examples import CALL, LOOK, PARAMETERS, RESPONSES, asked, user

pytestmark = pytest.mark.anyio

TEXT = {"type": "input_text", "text": "what?"}
IMAGE = {"type": "input_image", "image_url": RED}
FUNCTION = {"name": "look", "description": "Looks.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CALLED = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": "x"}'}
RETURNED = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
SAID = {"type": "output_text", "text": "a cat", "annotations": [], "logprobs": []}
EARLIER = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}


def spoken(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(call_id: str, arguments: str = '{"at": "x"}') -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


HI = [spoken("user", "hi")]
TEXT_PART = {"type": "text", "text": "what?"}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": (asked("hi"), {"messages": HI}),
    "instructions": (
        asked([spoken("user", "hi", type="message")], instructions="be brief"),
        {"messages": [spoken("system", "be brief"), *HI]},
    ),
    "image": (
        asked(user({**IMAGE, "detail": "low"}, TEXT)),
        {
            "messages": [
                spoken(
                    "user",
                    [
                        {"type": "image_url", "image_url": {"url": RED, "detail": "low"}},
                        TEXT_PART,
                    ],
                )
            ]
        },
    ),
    "conversation": (
        asked([spoken("developer", [TEXT]), *HI, {**EARLIER, "content": [SAID]}, *HI]),
        {
            "messages": [
                spoken("developer", [TEXT_PART]),
                *HI,
                spoken("assistant", [{"type": "text", "text": "a cat"}]),
                *HI,
            ]
        },
    ),
    "calls": (
        asked(
            [
                *HI,
                spoken("assistant", "I look."),
                {**CALLED, "id": "fc_1", "status": "completed"},
                {**CALLED, "call_id": "c2"},
                RETURNED,
                {**RETURNED, "call_id": "c2", "output": [TEXT]},
                CALLED,
                RETURNED,
            ],
            tools=[LOOK],
        ),
        {
            "messages": [
                *HI,
                spoken("assistant", "I look.", tool_calls=[call("c1"), call("c2")]),
                spoken("tool", "seen", tool_call_id="c1"),
                spoken("tool", [TEXT_PART], tool_call_id="c2"),
                spoken("assistant", None, tool_calls=[call("c1")]),
                spoken("tool", "seen", tool_call_id="c1"),
            ],
            "tools": [TOOL],
        },
    ),
    "sampling": (
        asked(max_output_tokens=7, temperature=0.3, top_p=0.5, seed=4, top_k=3, ignore_eos=True),
        {
            "messages": HI,
            "max_tokens": 7,
            "temperature": 0.3,
            "top_p": 0.5,
            "seed": 4,
            "top_k": 3,
            "ignore_eos": True,
        },
    ),
    "json_object": (
        asked(text={"format": {"type": "json_object"}}),
        {"messages": HI, "response_format": {"type": "json_object"}},
    ),
    "json_schema": (
        asked(text={"format": {"type": "json_schema", "name": "it", "schema": SCHEMA}}),
        {
            "messages": HI,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "it", "schema": SCHEMA},
            },
        },
    ),
    "named": (
        asked(tools=[LOOK], tool_choice={"type": "function", "name": "look"}),
        {
            "messages": HI,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
    ),
    "required": (
        asked(tools=[LOOK], tool_choice="required", parallel_tool_calls=False),
        {"messages": HI, "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    "strict": (
        asked(tools=[{**LOOK, "strict": True}]),
        {"messages": HI, "tools": [{**TOOL, "function": {**FUNCTION, "strict": True}}]},
    ),
    "dyvte": (
        asked(dyvte={"policy": "fixed", "exit_layer": 3}),
        {"messages": HI, "dyvte": {"policy": "fixed", "exit_layer": 3}},
    ),
    "alias": (asked(model="demo:safe"), {"messages": HI, "model": "demo:safe"}),
}


@pytest.mark.parametrize("name", PAIRS)
async def test_the_engine_is_asked_what_a_chat_asks(connect: Connect, name: str) -> None:
    ours, theirs = PAIRS[name]
    fake = FakeEngine()
    async with connect(fake) as client:
        headers = {"x-dyvte-policy": "off"}
        for path, sent in ((RESPONSES, ours), (CHAT, {"model": "demo", **theirs})):
            for sent_with in ({}, headers):
                reply = await client.post(path, json=sent, headers=sent_with)
                assert reply.status_code == 200, reply.text
    asks = [
        (request.sampling, request.exits, request.prompt.token_ids) for request in fake.requests
    ]
    assert asks[:2] == asks[2:]
    assert [_told(messages) for messages in fake.messages[:2]] == [
        _told(messages) for messages in fake.messages[2:]
    ]
    assert fake.tools[0] == fake.tools[2]


def _told(messages: Any) -> Any:
    """Messages with the size of a picture instead of it."""
    return [
        {
            key: [
                part | {"image": part["image"].size} if part["type"] == "image" else part
                for part in value
            ]
            if key == "content" and isinstance(value, list)
            else value
            for key, value in message.items()
        }
        for message in messages
    ]


async def test_an_answer_comes_back_as_input(connect: Connect) -> None:
    answer = "I look." + CALL + "\nAnd again." + CALL
    fake = FakeEngine(answer=answer.encode())
    async with connect(fake) as client:
        first = (await client.post(RESPONSES, json=asked(tools=[LOOK]))).json()
        calls = [item["call_id"] for item in first["output"] if item["type"] == "function_call"]
        given = [*HI, *first["output"], *({**RETURNED, "call_id": each} for each in calls)]
        second = await client.post(RESPONSES, json=asked(given, tools=[LOOK]))
    assert second.status_code == 200, second.text
    _, turn, *returned = fake.messages[1]
    assert [part["text"] for part in turn["content"]] == ["I look.", "\nAnd again."]
    assert turn["tool_calls"] == [{"name": "look", "arguments": {"at": "é"}}] * 2
    assert [message["role"] for message in returned] == ["tool", "tool"]


BROAD = {"type": "object", "description": "x" * 70_000}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"foo": 1}, "foo"),
    ({"messages": HI}, "messages"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{"content": "hi"}]}, "input[0].role"),
    ({"input": [spoken("tool", "hi")]}, "input[0].role"),
    ({"input": [spoken("user", [])]}, "input[0].content"),
    ({"input": [spoken("user", "hi", name="bob")]}, "input[0].name"),
    ({"input": [spoken("system", [IMAGE])]}, "input[0].content[0].type"),
    ({"input": [spoken("user", [{"type": "input_file"}])]}, "input[0].content[0].type"),
    ({"input": user({"type": "input_image"})}, "input[0].content[0].image_url"),
    ({"input": user({**IMAGE, "file_id": "f"})}, "input[0].content[0].file_id"),
    ({"input": user({**IMAGE, "detail": "huge"})}, "input[0].content[0].detail"),
    ({"input": user({**IMAGE, "image_url": "/etc/x"})}, "input[0].content[0].image_url"),
    ({"input": [*HI, {"type": "reasoning", "id": "r", "summary": []}]}, "input[1]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ({"input": [{"id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
    ({"input": [*HI, RETURNED]}, "input[1].call_id"),
    ({"input": [*HI, CALLED, {**CALLED, "arguments": "["}]}, "input[2].arguments"),
    ({"input": [*HI] * 1025}, "input"),
    ({"input": "long " * 200}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": BROAD}}},
        "text.format.schema",
    ),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [LOOK, LOOK]}, "tools[1].name"),
    ({"tools": [{**LOOK, "parameters": {"type": "null"}}]}, "tools[0].parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"stream_options": {"include_obfuscation": 0}}, "stream_options.include_obfuscation"),
    ({"input": [{"type": [None]}]}, "input[0].type"),
    ({"input": [{"type": {}}]}, "input[0].type"),
    ({"store": "yes"}, "store"),
    ({"dyvte": {"depth": 3}}, "dyvte.depth"),
    ({"dyvte": {"exit_layer": 3}}, "dyvte.exit_layer"),
]


async def test_what_is_refused_is_named_in_the_clients_words(connect: Connect) -> None:
    async with connect() as client:
        for fields, param in REFUSED:
            reply = await client.post(RESPONSES, json=asked(**{"input": "hi", **fields}))
            assert reply.status_code == 400, fields
            check("ErrorResponse", reply.json())
            error = reply.json()["error"]
            assert error["param"] == param, error["message"]
            assert "messages" not in error["message"] or param == "messages"


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_IN_RESPONSE))
def test_what_needs_a_store_or_a_service_is_named(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_response(asked(**{name: "something"}))
    assert refused.value.detail["param"] == name
    assert refused.value.detail["code"] == "unsupported_parameter"
    for value in (None, *UNSUPPORTED_IN_RESPONSE[name]):
        parse_response(asked(**{name: value}))


async def test_an_unknown_model_is_a_404(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.post(RESPONSES, json=asked(model="gpt-5"))).status_code == 404


def test_every_optional_field_may_be_null() -> None:
    optional = ResponseRequest.model_fields.keys() - {"model", "input"}
    assert parse_response(asked(**dict.fromkeys(optional))) == parse_response(asked())


def test_service_fields_are_accepted_as_openai_documents_them() -> None:
    parse_response(
        asked(
            user="u",
            metadata={"k": "v"},
            service_tier="auto",
            safety_identifier="s",
            prompt_cache_key="p",
            prompt_cache_retention="24h",
            prompt_cache_options={"mode": "implicit"},
            include=["reasoning.encrypted_content"],
            reasoning={"effort": "none", "summary": None},
            max_tool_calls=3,
            truncation="disabled",
            background=False,
            stream_options={"include_obfuscation": False},
            text={"format": {"type": "text"}, "verbosity": "medium"},
        )
    )
