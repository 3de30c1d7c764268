"""What clients reach: one ASGI app that hands each request to a replica and streams its answer.

It reads the body, since only there the image is named, and sends it on with the image's key; what
the request means is the replica's business. Key and body are bounded here by the server's own
layers, so that nobody's bytes are parsed who may not send them. Knows nothing of Ray: a fleet is
whatever can answer and list its replicas.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import orjson
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.ray.affinity import image_key
from deploy.ray.exchange import plain_scope
from deploy.ray.relay import Relay
from server.api.body import ClientGone
from server.api.errors import ApiError, of_status, unavailable
from server.api.guard import OPEN, BodyGuard, KeyGuard
from server.api.openapi import CHAT
from server.keys import Keyring
from server.settings import Settings

TARGETS = "/-/replicas"
ATTEMPTS = 3

log = structlog.get_logger("dyvte.ingress")

Answer = AbstractAsyncContextManager[AsyncIterator[list[Message]]]


class ReplicaGone(Exception):
    """The replica that had the request ended before it had answered."""


class Fleet(Protocol):
    """The replicas, behind whatever chooses among them."""

    def answer(self, scope: Scope, body: bytes, key: str) -> Answer:
        """One request's messages. Raises ReplicaGone, or ApiError where nobody takes it."""

    async def targets(self) -> list[Mapping[str, Any]]:
        """Where each replica's metrics are, for Prometheus' HTTP service discovery."""


def ingress(settings: Settings, fleet: Fleet) -> ASGIApp:
    """The app: the server's bounds around an ``Ingress``."""
    paths = OPEN if settings.metrics_key else (*OPEN, TARGETS)
    bounded = BodyGuard(
        Ingress(settings, fleet), settings.max_body, settings.body_timeout, on_too_large=_untold
    )
    return KeyGuard(bounded, Keyring.of(settings), paths)


def _untold() -> None:
    """Refusals at the door are in the log of Ray's proxy, by status."""


class Ingress:
    """Reads, keys, forwards; once more, elsewhere, where a replica died before it spoke."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._silence_s = 3 * settings.keep_alive
        self._fleet = fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            try:
                await self._serve(scope, receive, send)
            except ApiError as error:
                await error.response()(scope, receive, send)
            except ClientGone:
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError as long as nothing was sent."""
        if scope["path"] == TARGETS:
            found = orjson.dumps(await self._fleet.targets())
            await Response(found, media_type="application/json")(scope, receive, send)
            return
        if scope["path"] == "/metrics":
            raise of_status(404, scope["method"], f"/metrics; see {TARGETS}", {})
        body = await _body(receive)
        key = image_key(body) if scope["path"] == CHAT else ""
        await self._forward(plain_scope(scope), body, key, send)

    async def _forward(self, scope: Scope, body: bytes, key: str, send: Send) -> None:
        for attempt in range(ATTEMPTS):
            relay = Relay(send, self._silence_s)
            try:
                async with self._fleet.answer(scope, body, key) as messages:
                    await relay.pass_on(messages)
                return
            except (ReplicaGone, TimeoutError) as error:
                log.warning("replica gone", attempt=attempt, begun=relay.begun, reason=str(error))
                if relay.begun:
                    await relay.end(unavailable("The replica has gone.", "replica_gone"))
                    return
        raise unavailable("No replica could answer.", "replica_gone")


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises ClientGone."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    """Nothing to start, nothing to end."""
    for answer in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{answer}.complete"})
