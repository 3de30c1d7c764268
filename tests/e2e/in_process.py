"""The app over a real engine in this process, and a client that needs no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from server.__main__ import open_engine
from server.app import create_app
from server.settings import Settings


@asynccontextmanager
async def connected(**given: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on the CPU in float32, once its model is loaded."""
    settings = Settings.model_validate({"device": "cpu", "dtype": "float32", **given})
    app = create_app(settings, lambda: open_engine(settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as made,
    ):
        await app.state.loading
        yield made
