"""``/v1/responses``: what it answers, whole and streamed, beside what a chat would."""

from __future__ import annotations

from typing import Any

import pytest

from dyvte.errors import EngineStopped, QueueFull, RequestFailed
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, body, with_images
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check
from tests.server.response_examples import (
    CALL,
    LOOK,
    RESPONSES,
    asked,
    events_of,
    kinds_of,
    said_of,
    user,
    without_ids,
)

pytestmark = pytest.mark.anyio

IMAGE = {"type": "input_image", "image_url": RED, "detail": "auto"}
SHOWN = user(IMAGE, {"type": "input_text", "text": "what?"})
FIXED = {"policy": "fixed", "exit_layer": 1, "report": "full"}
MESSAGE = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]
CALLED = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


async def test_a_whole_answer_says_and_costs_what_a_chat_does(connect: Connect) -> None:
    async with connect() as client:
        reply = (await client.post(RESPONSES, json=asked(SHOWN, dyvte=FIXED))).json()
        chat = (await client.post(CHAT, json=with_images(RED, dyvte=FIXED))).json()
    check("Response", reply)
    assert reply["status"] == "completed"
    assert said_of(reply) == chat["choices"][0]["message"]["content"] == "Hello, world."
    usage, theirs = reply["usage"], chat["usage"]
    assert usage["input_tokens"] == theirs["prompt_tokens"]
    assert usage["output_tokens"] == theirs["completion_tokens"]
    assert usage["total_tokens"] == theirs["total_tokens"]
    for name in ("cached_tokens", "image_tokens", "text_tokens"):
        assert usage["input_tokens_details"][name] == theirs["prompt_tokens_details"][name]
    assert without_ids(reply["dyvte"]) == without_ids(chat["dyvte"])
    assert reply["dyvte"]["exit_layer"] == 1
    assert "tokens_per_layer" in reply["dyvte"]


async def test_a_stream_is_openais_events_in_openais_order(connect: Connect) -> None:
    async with connect() as client:
        whole = (await client.post(RESPONSES, json=asked(SHOWN))).json()
        events = events_of(await client.post(RESPONSES, json=asked(SHOWN, stream=True)))
    assert kinds_of(events) == ["created", "in_progress", *MESSAGE, "completed"]
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == "Hello, world."
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    assert events[0]["response"]["output"] == []
    assert "usage" not in events[0]["response"]
    done = [event["item"] for event in events if event["type"].endswith("item.done")]
    assert done == events[-1]["response"]["output"]


async def test_calls_are_items_of_their_own_whole_and_streamed(connect: Connect) -> None:
    engine = FakeEngine(answer=("I look.\n" + CALL + "\n" + CALL).encode())
    async with connect(engine) as client:
        whole = (await client.post(RESPONSES, json=asked(tools=[LOOK]))).json()
        reply = await client.post(RESPONSES, json=asked(tools=[LOOK], stream=True))
    check("Response", whole)
    message, first, second = whole["output"]
    assert message["content"][0]["text"] == "I look."
    assert (first["name"], first["arguments"]) == ("look", '{"at": "é"}')
    assert first["call_id"] != second["call_id"]
    events = events_of(reply)
    assert kinds_of(events) == ["created", "in_progress", *MESSAGE, *CALLED, *CALLED, "completed"]
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    deltas = [e["delta"] for e in events if e["type"].endswith("delta") and e["output_index"] == 2]
    assert "".join(deltas) == second["arguments"]


@pytest.mark.parametrize("answer", ["", "<tool_call>nothing</tool_call>", "a " + CALL + " b"])
async def test_whatever_is_said_the_stream_says_it_whole(connect: Connect, answer: str) -> None:
    async with connect(FakeEngine(answer=answer.encode())) as client:
        whole = (await client.post(RESPONSES, json=asked(tools=[LOOK]))).json()
        reply = await client.post(RESPONSES, json=asked(tools=[LOOK], stream=True))
    check("Response", whole)
    events = events_of(reply)
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    streamed = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(streamed) == said_of(whole)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("answer", "length"), [("Hello, world.", 5), (CALL, 45)])
async def test_an_answer_that_is_cut_is_incomplete(
    connect: Connect, answer: str, length: int, stream: bool
) -> None:
    sent = asked(max_output_tokens=length, tools=[LOOK], stream=stream)
    async with connect(FakeEngine(answer=answer.encode())) as client:
        reply = await client.post(RESPONSES, json=sent)
    events = events_of(reply) if stream else []
    assert not stream or events[-1]["type"] == "response.incomplete"
    made = events[-1]["response"] if stream else reply.json()
    check("Response", made)
    assert made["status"] == "incomplete"
    assert made["incomplete_details"] == {"reason": "max_output_tokens"}
    assert made["completed_at"] is None
    (item,) = made["output"]
    assert item["status"] == "incomplete"
    assert item.get("arguments", '{"a') == '{"a'


async def test_log_probabilities_are_a_chats(connect: Connect) -> None:
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with connect(FakeEngine(answer="naïve".encode())) as client:
        chat = await client.post(CHAT, json=body(logprobs=True, top_logprobs=2))
        whole = (await client.post(RESPONSES, json=asked(**wanted))).json()
        events = events_of(await client.post(RESPONSES, json=asked(**wanted, stream=True)))
    check("Response", whole)
    tokens = whole["output"][0]["content"][0]["logprobs"]
    assert tokens == chat.json()["choices"][0]["logprobs"]["content"]
    told = [t for e in events if e["type"].endswith("text.delta") for t in e["logprobs"]]
    assert told == tokens
    assert whole["top_logprobs"] == 2


async def test_log_probabilities_of_calls_are_not_told(connect: Connect) -> None:
    sent = asked(include=["message.output_text.logprobs"], tools=[LOOK])
    async with connect(FakeEngine(answer=("Hm." + CALL).encode())) as client:
        made = (await client.post(RESPONSES, json=sent)).json()
    tokens = made["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in tokens) == "Hm."


async def test_the_request_is_echoed_and_nothing_is_stored(connect: Connect) -> None:
    text = {"format": {"type": "json_schema", "name": "it", "schema": {"type": "object"}}}
    sent: dict[str, Any] = {
        "instructions": "be brief",
        "metadata": {"k": "v"},
        "user": "u",
        "temperature": 0.5,
        "max_output_tokens": 99,
        "text": text,
        "store": True,
    }
    async with connect() as client:
        made = (await client.post(RESPONSES, json=asked(**sent))).json()
        other = (await client.post(RESPONSES, json=asked(tools=[LOOK], store=None))).json()
    for reply in (made, other):
        check("Response", reply)
        assert reply["store"] is False
    assert {name: made[name] for name in sent if name not in ("store", "text")} == {
        name: value for name, value in sent.items() if name not in ("store", "text")
    }
    assert made["text"]["format"] == text["format"]
    assert other["tools"] == [{**LOOK, "strict": False}]
    assert "user" not in other


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_response_cannot_be_fetched_or_deleted(connect: Connect, method: str) -> None:
    async with connect() as client:
        made = (await client.post(RESPONSES, json=asked())).json()
        reply = await client.request(method, f"{RESPONSES}/{made['id']}")
    assert reply.status_code == 404
    check("ErrorResponse", reply.json())
    assert "stores no responses" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        (FakeEngine(fail_submit=QueueFull("full")), 429),
        (FakeEngine(fail_submit=EngineStopped("gone")), 503),
        (FakeEngine(fail_after=(0, RequestFailed("x", "y"))), 500),
    ],
)
async def test_what_fails_before_the_first_token_has_a_status(
    connect: Connect, engine: FakeEngine, status: int
) -> None:
    async with connect(engine) as client:
        for stream in (True, False):
            reply = await client.post(RESPONSES, json=asked(stream=stream))
            assert reply.status_code == status
            check("ErrorResponse", reply.json())


@pytest.mark.parametrize("fault", [RequestFailed("0x7f", "y"), ValueError("0x7f")])
async def test_what_fails_later_is_told_twice_and_ends_the_stream(
    connect: Connect, fault: Exception
) -> None:
    async with connect(FakeEngine(fail_after=(3, fault))) as client:
        reply = await client.post(RESPONSES, json=asked(stream=True))
    *_, error, failed = events_of(reply)
    assert (error["type"], error["code"]) == ("error", "internal_error")
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
    assert reply.headers["x-request-id"] in error["message"]
    assert "0x7f" not in reply.text


async def test_responses_are_counted_like_other_requests(connect: Connect) -> None:
    async with connect() as client:
        await client.post(RESPONSES, json=asked())
        await client.post(RESPONSES, json=asked(stream=True))
        await client.post(RESPONSES, json=asked(background=True))
        await client.get(f"{RESPONSES}/resp_1")
        page = (await client.get("/metrics")).text
    for path, status, count in (("", 200, 2.0), ("", 400, 1.0), ("/{id}", 404, 1.0)):
        labels = f'endpoint="/v1/responses{path}",model_name="demo",status_code="{status}"'
        assert f"dyvte_requests_total{{{labels}}} {count}" in page
    assert 'dyvte_request_success_total{finish_reason="stop",model_name="demo"} 2.0' in page


async def test_the_description_tells_the_route_and_its_events(connect: Connect) -> None:
    async with connect() as client:
        described = (await client.get("/openapi.json")).json()
    post = described["paths"][RESPONSES]["post"]
    sent = post["requestBody"]["content"]["application/json"]["schema"]
    assert sent == {"$ref": "#/components/schemas/ResponseRequest"}
    answered = post["responses"]["200"]["content"]["application/json"]["schema"]
    assert answered == {"$ref": "#/components/schemas/ResponseObject"}
    assert {"ResponseEvent", "ResponseUsage"} <= described["components"]["schemas"].keys()
    assert described["paths"][RESPONSES + "/{response_id}"].keys() == {"get", "delete"}
