"""Loading, ready, draining, and what each answers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from dyvte.engine.events import Checked
from dyvte.errors import ModelError, OptionError
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from server.app import create_app
from server.lifecycle import Phase
from server.settings import Settings
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body, events
from tests.server.fake_engine import NUM_LAYERS, FakeEngine

pytestmark = pytest.mark.anyio


async def test_health_answers_while_the_model_loads(connect: Connect) -> None:
    async with connect(FakeEngine(load_s=5), wait=False) as client:
        codes = [(await client.get(path)).status_code for path in ("/health", "/ready")]
        chat = await client.post(CHAT, json=body())
        models = await client.get("/v1/models")
    assert codes == [200, 503]
    assert (chat.status_code, models.status_code) == (503, 503)
    assert chat.json()["error"]["code"] == "loading"
    assert "retry-after" in chat.headers


async def test_a_load_that_blocks_does_not_block_the_loop() -> None:
    told = threading.Event()

    def waits_for_the_loop() -> FakeEngine:
        assert told.wait(5), "the event loop was blocked"
        return FakeEngine()

    app = create_app(Settings(), waits_for_the_loop)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0.01)
        told.set()
        await app.state.loading
        assert app.state.lifecycle.phase is Phase.READY


@pytest.mark.parametrize("operator", [{}, {"default_exits": "reckless"}, {"default_exits": "off"}])
async def test_a_failed_load_is_told_once(operator: dict[str, str]) -> None:
    told: list[Exception] = []

    def fails() -> FakeEngine:
        if not operator:
            raise ModelError("no such folder")
        return FakeEngine()

    app = create_app(Settings.model_validate(operator), fails, on_failure=told.append)
    async with app.router.lifespan_context(app):
        await app.state.loading
        failed = app.state.lifecycle.phase is Phase.FAILED
    good = operator == {"default_exits": "off"}
    assert failed is not good
    assert len(told) == (0 if good else 1)


class Layered(FakeEngine):
    """Knows how many layers it has."""

    def check(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Checked:
        if exits is not None and (exits.min_layer or 0) >= NUM_LAYERS:
            raise OptionError("min_layer", f"is out of range: the layers are 0..{NUM_LAYERS - 1}")
        return super().check(prompt, sampling, exits)


@pytest.mark.parametrize(
    ("operator", "field"),
    [
        ({"min_exit_layer": 99}, "min_exit_layer"),
        ({"default_exits": {"policy": "gate", "min_layer": 99}}, "default_exits"),
    ],
)
async def test_exits_that_cannot_hold_are_told_with_the_operators_own_flag(
    operator: dict[str, Any], field: str
) -> None:
    told: list[Exception] = []
    app = create_app(Settings.model_validate(operator), Layered, on_failure=told.append)
    async with app.router.lifespan_context(app):
        await app.state.loading
    assert [error.field for error in told if isinstance(error, OptionError)] == [field]


async def test_a_dead_engine_is_not_healthy(connect: Connect) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        engine.alive = False
        codes = [(await client.get(path)).status_code for path in ("/health", "/ready")]
        chat = await client.post(CHAT, json=body())
    assert [*codes, chat.status_code] == [503, 503, 503]


async def test_ready_tells_loading_ready_draining_and_dead() -> None:
    engine, may_load = FakeEngine(), threading.Event()

    def opens_late() -> FakeEngine:
        assert may_load.wait(10)
        return engine

    app = create_app(Settings(drain_timeout=0.1), opens_late)
    transport = httpx.ASGITransport(app)
    told: list[tuple[int, str]] = []
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):

        async def ask() -> None:
            reply = await client.get("/ready")
            raw = reply.json()
            told.append((reply.status_code, raw.get("status") or raw["error"]["code"]))

        await ask()
        may_load.set()
        await app.state.loading
        await ask()
        engine.alive = False
        await ask()
        engine.alive = True
        await app.state.lifecycle.drain()
        await ask()
    assert told == [(503, "loading"), (200, "ready"), (503, "engine_stopped"), (503, "draining")]


async def test_more_than_fit_and_wait_are_turned_away(connect: Connect) -> None:
    async with connect(FakeEngine(step_s=0.02), max_num_seqs=1, max_waiting=1) as client:
        replies = await asyncio.gather(*(client.post(CHAT, json=body()) for _ in range(5)))
        metrics = (await client.get("/metrics")).text
    codes = sorted(reply.status_code for reply in replies)
    assert codes == [200, 200, 429, 429, 429]
    assert 'rejections_total{model_name="demo",reason="queue_full"} 3.0' in metrics


async def test_draining_finishes_who_is_inside_and_refuses_who_comes() -> None:
    engine = FakeEngine(step_s=0.02)
    app = create_app(Settings(drain_timeout=5), lambda: engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        inside = asyncio.create_task(client.post(CHAT, json=body(stream=True)))
        while not engine.running:
            await asyncio.sleep(0.01)
        drained = asyncio.create_task(app.state.lifecycle.drain())
        while app.state.lifecycle.phase is not Phase.DRAINING:
            await asyncio.sleep(0)
        late = await client.post(CHAT, json=body())
        ready = await client.get("/ready")
        await drained
        assert events(await inside)
    assert (late.status_code, ready.status_code) == (503, 503)
    assert late.json()["error"]["code"] == "draining"
    assert engine.stopped


async def test_a_drain_timeout_ends_streams_with_an_error_event() -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.02)
    app = create_app(Settings(drain_timeout=0.1), lambda: engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        inside = asyncio.create_task(client.post(CHAT, json=body(stream=True)))
        while not engine.running:
            await asyncio.sleep(0.01)
        await app.state.lifecycle.drain()
        reply = await inside
    assert '"code":"draining"' in reply.text.strip().split("\n\n")[-1]
