"""One replica: the server's own app, engine and life cycle, inside an actor of Ray's.

The composition is that of ``dyvte serve``; Ray takes the place of the socket and of the signals.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from functools import partial
from typing import Any

import ray
from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope

from deploy.ray.exchange import respond
from deploy.ray.monitor import Monitor
from server.__main__ import open_engine
from server.app import create_app
from server.listen import bind
from server.logs import configure_logs
from server.settings import Settings
from server.tracing import traced

REPLICA_HEADER = "X-DyVTE-Replica"


class Replica:
    """An app that is loaded when the constructor returns; a model that cannot be raises there."""

    # Ray awaits a constructor that is a coroutine, on the loop that later serves.
    async def __init__(  # type: ignore[misc]
        self, settings: Settings, monitor_port: int
    ) -> None:
        configure_logs(settings.log_level, settings.log_format)
        self._name = serve.get_replica_context().replica_id.unique_id
        self._app = create_app(settings, partial(open_engine, settings))
        self._tracing = ExitStack()
        self._tracing.enter_context(traced(self._app, settings))
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()
        await self._app.state.loading
        self._open_monitor(settings, monitor_port)

    def _open_monitor(self, settings: Settings, port: int) -> None:
        address = ray.util.get_node_ip_address()
        socket = bind(settings.model_copy(update={"host": address, "port": port}))
        self._address = f"{address}:{socket.getsockname()[1]}"
        self._monitor = Monitor(self._app, settings)
        self._watching = asyncio.ensure_future(self._monitor.serve([socket]))

    async def answer(self, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
        """ASGI messages of one request; the response names the replica."""
        messages = respond(self._app, scope, body)
        try:
            async for batch in messages:
                if batch[0]["type"] == "http.response.start":
                    MutableHeaders(scope=batch[0])[REPLICA_HEADER] = self._name
                yield batch
        finally:
            await messages.aclose()

    def target(self) -> dict[str, Any]:
        """This replica as an entry of Prometheus' HTTP service discovery."""
        labels = {"replica": self._name, "__meta_dyvte_pid": str(os.getpid())}
        return {"targets": [self._address], "labels": labels}

    def check_health(self) -> None:
        """Called by Ray; a replica whose engine has stopped is replaced."""
        if not self._app.state.lifecycle.alive:
            raise RuntimeError("the engine has stopped")

    async def __del__(self) -> None:
        """Called by Ray once nobody is inside any more: the app's orderly end."""
        self._monitor.should_exit = True
        await self._watching
        await self._life.__aexit__(None, None, None)
        await asyncio.to_thread(self._tracing.close)
