"""Streams: role first, text as it comes, the account last, and always a terminal event."""

from __future__ import annotations

import json

import pytest

from dyvte.errors import EngineStopped, QueueFull, RequestFailed
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, body, events, text_of, with_images
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio

USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def test_every_chunk_is_openais_object(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json=with_images(RED, n=2, logprobs=True, **USAGE))
    assert reply.headers["content-type"].startswith("text/event-stream")
    chunks = events(reply)
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [text_of(chunks, index) for index in range(2)] == ["Hello, world."] * 2


async def test_the_role_comes_first_and_the_reason_last(connect: Connect) -> None:
    async with connect() as client:
        chunks = events(await client.post(CHAT, json=body(stream=True)))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "stop"
    assert choices[-1]["delta"] == {}


async def test_usage_and_account_ride_on_a_chunk_without_choices(connect: Connect) -> None:
    async with connect() as client:
        *rest, last = events(await client.post(CHAT, json=with_images(RED, **USAGE)))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len("Hello, world.")
    assert last["dyvte"]["exit_layer"] == 2
    assert all(chunk["usage"] is None and "dyvte" not in chunk for chunk in rest)


async def test_without_usage_the_account_rides_on_the_last_reason(connect: Connect) -> None:
    async with connect() as client:
        *rest, last = events(await client.post(CHAT, json=with_images(RED, n=2, stream=True)))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["dyvte"]["exit_layer"] == 2
    assert all("dyvte" not in chunk and "usage" not in chunk for chunk in rest)


async def test_a_stream_says_what_the_whole_answer_says(connect: Connect) -> None:
    answer = "naïve 🙂 text".encode() + b"\xff."
    async with connect(FakeEngine(answer=answer)) as client:
        whole = (await client.post(CHAT, json=body())).json()
        chunks = events(await client.post(CHAT, json=body(stream=True)))
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert text_of(chunks) == answer.decode("utf-8", "replace")


async def test_a_stop_string_never_shows_in_a_stream(connect: Connect) -> None:
    async with connect() as client:
        chunks = events(await client.post(CHAT, json=body(stop="wor", **USAGE)))
    assert text_of(chunks) == "Hello, "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["dyvte"]["policy"] == "gate"


async def test_streamed_logprobs_are_those_of_the_whole_answer(connect: Connect) -> None:
    raw = body(logprobs=True, top_logprobs=1, stop="rl")
    async with connect() as client:
        whole = (await client.post(CHAT, json=raw)).json()["choices"][0]["logprobs"]["content"]
        chunks = events(await client.post(CHAT, json={**raw, "stream": True}))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for part in parts if part for token in part["content"]] == whole
    assert "".join(token["token"] for token in whole) == "Hello, wo"


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
        reply = await client.post(CHAT, json=body(stream=True))
    assert reply.status_code == status
    check("ErrorResponse", reply.json())


@pytest.mark.parametrize("fault", [RequestFailed("0x7f", "y"), ValueError("0x7f")])
async def test_what_fails_later_is_an_error_event_that_ends_the_stream(
    connect: Connect, fault: Exception
) -> None:
    async with connect(FakeEngine(fail_after=(3, fault))) as client:
        reply = await client.post(CHAT, json=body(stream=True))
    last = reply.text.strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))
    check("ErrorResponse", error)
    assert error["error"]["code"] == "internal_error"
    assert reply.headers["x-request-id"] in error["error"]["message"]
    assert "0x7f" not in reply.text


async def test_comment_lines_keep_a_silent_stream_awake(connect: Connect) -> None:
    async with connect(FakeEngine(answer=b"ab", step_s=0.1), keep_alive=0.03) as client:
        reply = await client.post(CHAT, json=body(stream=True))
    assert ": keep-alive\n\n" in reply.text
    assert text_of(events(reply)) == "ab"


async def test_stream_null_is_a_whole_answer(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json=body(stream=None, stream_options=None))
    assert reply.json()["object"] == "chat.completion"
