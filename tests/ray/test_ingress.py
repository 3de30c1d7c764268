"""The ingress over a fleet of one app in this process, and what it says when a replica dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Scope

from deploy.ray.exchange import plain_scope, respond
from deploy.ray.ingress import ReplicaGone, ingress
from server.api.errors import queue_full
from server.app import create_app
from server.settings import Settings
from tests.server.examples import CHAT, RED, body, events, text_of, with_images
from tests.server.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class FakeFleet:
    """Answers with ``app``; the first ``deaths`` requests end after ``words`` batches."""

    app: ASGIApp
    deaths: int = 0
    words: int = 0
    dying: Callable[[], Exception] = lambda: ReplicaGone("killed")
    silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def answer(
        self, scope: Scope, body: bytes, key: str
    ) -> AsyncGenerator[AsyncIterator[list[Message]], None]:
        self.asked.append((scope["path"], key))
        async with aclosing(self._batches(scope, body)) as batches:
            yield batches

    async def _batches(self, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
        dies = len(self.asked) <= self.deaths
        async with aclosing(respond(self.app, scope, body)) as batches:
            count = 0
            async for batch in batches:
                if dies and count == self.words:
                    if self.silent:
                        await asyncio.sleep(60)
                    raise self.dying()
                yield batch
                count += 1

    async def targets(self) -> list[Mapping[str, Any]]:
        return [{"targets": ["10.0.0.1:1234"], "labels": {"replica": "a"}}]


@asynccontextmanager
async def connect(
    engine: FakeEngine | None = None, **settings: Any
) -> AsyncGenerator[tuple[httpx.AsyncClient, FakeFleet], None]:
    operator = Settings.model_validate({"drain_timeout": 0.2, **settings})
    fake = engine or FakeEngine(step_s=0.001)
    app = create_app(operator, lambda: fake)
    fleet = FakeFleet(app)
    transport = httpx.ASGITransport(ingress(operator, fleet))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        yield client, fleet


async def test_a_stream_arrives_as_the_app_sent_it() -> None:
    async with connect() as (client, fleet):
        chunks = events(await client.post(CHAT, json=with_images(RED, **STREAM)))
    assert text_of(chunks) == "Hello, world."
    assert chunks[-1]["dyvte"]["exit_layer"] == 2
    assert fleet.asked[0][1]


async def test_small_routes_have_no_key() -> None:
    async with connect() as (client, fleet):
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "demo"
        assert (await client.get("/nowhere")).status_code == 404
    assert fleet.asked == [("/v1/models", ""), ("/nowhere", "")]


async def test_the_request_id_is_not_said_twice() -> None:
    async with connect() as (client, _):
        reply = await client.post(CHAT, json=body(), headers={"X-Request-Id": "mine"})
    assert "x-request-id" not in reply.headers  # Ray's proxy, in front of this, adds it


async def test_a_death_before_the_first_word_is_answered_by_another_replica() -> None:
    async with connect() as (client, fleet):
        fleet.deaths = 2
        reply = await client.post(CHAT, json=body())
    assert reply.json()["choices"][0]["message"]["content"] == "Hello, world."
    assert len(fleet.asked) == 3


async def test_a_death_in_mid_stream_ends_it_with_an_error_event() -> None:
    async with connect(FakeEngine(step_s=0.01)) as (client, fleet):
        fleet.deaths, fleet.words = 1, 3
        reply = await client.post(CHAT, json=body(stream=True))
    *begun, last = [line for line in reply.text.split("\n\n") if line]
    assert begun
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("replica_gone", "server_error")


async def test_a_stream_that_falls_silent_ends_with_an_error_event() -> None:
    async with connect(FakeEngine(step_s=0.01), keep_alive=0.1) as (client, fleet):
        fleet.deaths, fleet.words, fleet.silent = 1, 3, True
        reply = await client.post(CHAT, json=body(stream=True))
    assert '"replica_gone"' in reply.text.split("\n\n")[-2]


async def test_a_dead_fleet_is_a_503() -> None:
    async with connect() as (client, fleet):
        fleet.deaths = 99
        reply = await client.post(CHAT, json=body())
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "replica_gone"


async def test_a_full_fleet_is_a_429() -> None:
    async with connect() as (client, fleet):
        fleet.deaths, fleet.dying = 1, lambda: queue_full(1.0)
        reply = await client.post(CHAT, json=body())
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")


async def test_nobody_without_a_key_reaches_a_replica() -> None:
    async with connect(api_key="secret") as (client, fleet):
        assert (await client.post(CHAT, json=body())).status_code == 401
        assert fleet.asked == []
        known = {"Authorization": "Bearer secret"}
        assert (await client.post(CHAT, json=body(), headers=known)).status_code == 200


async def test_a_body_too_large_reaches_no_replica() -> None:
    async with connect(max_body=1024) as (client, fleet):
        assert (await client.post(CHAT, content=b" " * 1025)).status_code == 413
        drip = client.post(CHAT, content=_drip())
        assert (await drip).status_code == 413
    assert fleet.asked == []


async def _drip() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b" " * 512


async def test_replicas_are_listed_for_prometheus_and_metrics_are_theirs() -> None:
    async with connect(api_key="secret") as (client, _):
        listed = await client.get("/-/replicas")
        assert (await client.get("/metrics")).status_code == 401
    assert listed.json() == [{"targets": ["10.0.0.1:1234"], "labels": {"replica": "a"}}]
    async with connect() as (client, _):
        reply = await client.get("/metrics")
    assert reply.status_code == 404
    assert "/-/replicas" in reply.json()["error"]["message"]


async def test_leaving_early_aborts_the_request_behind() -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.01)
    app = create_app(Settings(drain_timeout=0.2), lambda: engine)
    scope = plain_scope(_scope())
    async with app.router.lifespan_context(app):
        await app.state.loading
        async with aclosing(respond(app, scope, json.dumps(body(stream=True)).encode())) as batches:
            await anext(batches)
        assert len(engine.aborted) == 1
        assert not engine.running


def _scope() -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [[b"content-type", b"application/json"]],
        "app": object(),
    }
