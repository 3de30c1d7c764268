"""An app with the fake engine, started, and a client that talks to it in process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from server.app import create_app
from server.settings import Settings
from tests.server.fake_engine import FakeEngine

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def connect(
    engine: FakeEngine | None = None, wait: bool = True, **settings: object
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running app; ``settings`` are the operator's."""
    fake = engine or FakeEngine()
    app = create_app(Settings.model_validate({"drain_timeout": 0.2, **settings}), lambda: fake)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        if wait:
            await app.state.loading
        yield client


@pytest.fixture(name="connect")
def connect_fixture() -> Connect:
    """``async with connect(engine, flag=value) as client``."""
    return connect
