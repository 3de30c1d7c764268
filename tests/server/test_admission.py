"""Bounds on who comes in: together, by key, by tokens, by time; and what those outside are told."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dyvte.prompt import Prompt
from server.admission import Admission
from server.api.errors import ApiError
from server.keys import Client
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body, events
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio


class Door:
    """An admission with a clock that is moved by hand."""

    def __init__(self, places: int = 100) -> None:
        self.now = 0.0
        self.refused: list[str] = []
        self.admission = Admission(places, self.refused.append, lambda: self.now)
        self.inside = ExitStack()

    def comes(self, client: Client | None = None) -> ApiError | None:
        try:
            self.inside.enter_context(self.admission.place(client))
        except ApiError as error:
            return error
        return None


def test_places_are_for_all_and_come_back() -> None:
    door = Door(places=2)
    assert [door.comes() is None for _ in range(3)] == [True, True, False]
    assert door.refused == ["queue_full"]
    door.inside.close()
    assert door.admission.inside == 0
    assert door.comes() is None


def test_retry_after_is_the_present_rate() -> None:
    door = Door(places=1)
    for _ in range(10):
        assert door.comes() is None
        door.now += 3
        door.inside.close()
    assert door.comes() is None
    door.now += 3
    told = []
    for _ in range(3):
        error = door.comes()
        assert error is not None
        told.append(int(error.headers["Retry-After"]))
    assert told == [3, 6, 9]


def test_refused_requests_do_not_make_the_line_look_fast() -> None:
    door = Door(places=1)
    for _ in range(5):
        assert door.comes() is None
        door.now += 4
        door.inside.close()
        for _ in range(20):
            with door.admission.place() as place:
                place.served = False
    assert door.comes() is None
    error = door.comes()
    assert error is not None
    assert error.headers["Retry-After"] == "4"


def test_a_key_s_places_do_not_count_for_others() -> None:
    door, alice, bob = Door(), Client("alice", concurrent=2), Client("bob", concurrent=1)
    assert [door.comes(alice) is None for _ in range(3)] == [True, True, False]
    assert door.comes(bob) is None
    assert door.comes() is None
    assert door.refused == ["key_limit"]


def test_a_minute_s_requests_are_counted_over_the_last_minute() -> None:
    door, alice = Door(), Client("alice", per_minute=2)
    assert door.comes(alice) is None
    door.now = 40
    assert door.comes(alice) is None
    error = door.comes(alice)
    assert error is not None
    assert error.status == 429
    assert error.headers["Retry-After"] == "20"
    door.now = 60
    assert door.comes(alice) is None
    assert door.comes(alice) is not None


def test_a_refusal_for_want_of_places_is_no_arrival_inside() -> None:
    door, alice = Door(places=1), Client("alice", concurrent=1)
    assert door.comes() is None
    assert door.comes(alice) is not None
    door.inside.close()
    assert door.comes(alice) is None


async def test_a_key_s_limit_is_a_429_in_openais_form(connect: Connect, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one alice concurrent=1\ntwo bob\n")
    async with connect(FakeEngine(step_s=0.02), api_key_file=keys) as client:

        async def ask(key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            reply = await client.post(CHAT, json=body(), headers=headers)
            if reply.status_code == 429:
                check("ErrorResponse", reply.json())
                assert reply.json()["error"]["code"] == "rate_limit_exceeded"
                assert int(reply.headers["retry-after"]) >= 1
            return reply.status_code

        codes = await asyncio.gather(*map(ask, ("one", "one", "two", "two")))
        metrics = (await client.get("/metrics")).text
    assert sorted(codes[:2]) == [200, 429]
    assert codes[2:] == [200, 200]
    assert 'rejections_total{model_name="demo",reason="key_limit"} 1.0' in metrics


async def test_whatever_asks_for_work_takes_a_place(connect: Connect) -> None:
    asked = {
        CHAT: body(),
        "/v1/completions": {"model": "demo", "prompt": "hi"},
        "/tokenize": {"prompt": "hi"},
        "/detokenize": {"tokens": [104, 105]},
    }
    async with connect(max_num_seqs=1, max_waiting=0) as client:
        for path, raw in asked.items():
            assert (await client.post(path, json=raw)).status_code == 200
    async with connect(FakeEngine(step_s=0.2), max_num_seqs=1, max_waiting=0) as client:
        inside = asyncio.create_task(client.post(CHAT, json=body()))
        await asyncio.sleep(0.1)
        late = [await client.post(path, json=raw) for path, raw in asked.items()]
        assert (await inside).status_code == 200
    assert [reply.status_code for reply in late] == [429] * 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_time_is_up_ends_with_an_error(
    connect: Connect, stream: bool
) -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.02)
    async with connect(engine, request_timeout=0.15, keep_alive=0.05) as client:
        reply = await client.post(CHAT, json=body(stream=stream))
        assert not engine.running, "the engine was told"
    assert len(engine.aborted) == 1
    if stream:
        assert '"code":"request_timeout"' in reply.text.strip().split("\n\n")[-1]
    else:
        assert reply.status_code == 408
        assert reply.headers["x-should-retry"] == "false"
        check("ErrorResponse", reply.json())


async def test_a_client_may_ask_for_less_time_and_not_for_more(connect: Connect) -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.02)
    async with connect(engine, request_timeout=0.2) as client:
        less = await client.post(CHAT, json=body(), headers={"x-request-timeout": "0.05"})
        more = await client.post(CHAT, json=body(), headers={"x-request-timeout": "60"})
    assert (less.status_code, more.status_code) == (408, 408)


@pytest.mark.parametrize("asked", ["0", "-1", "soon", "inf", "nan", ""])
async def test_a_time_that_is_no_time_is_a_400(connect: Connect, asked: str) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json=body(), headers={"x-request-timeout": asked})
    assert reply.status_code == 400


async def test_time_also_runs_while_images_are_prepared(connect: Connect) -> None:
    class Slow(FakeEngine):
        def prepare(self, *asked: Any) -> Prompt:
            time.sleep(0.3)
            return super().prepare(*asked)

    async with connect(Slow(), request_timeout=0.05) as client:
        reply = await client.post(CHAT, json=body())
    assert reply.status_code == 408


async def test_within_its_time_a_stream_is_whole(connect: Connect) -> None:
    async with connect(request_timeout=20) as client:
        reply = await client.post(CHAT, json=body(stream=True))
    assert events(reply)
