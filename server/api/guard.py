"""Before a route runs: the API key, and the bounds of the body while it streams in.

Pure ASGI layers, so that nothing is buffered on the way. Every route needs a key except the
ones named here, whether it exists or not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.context import RequestRecord
from server.api.errors import ApiError, body_too_large, body_too_slow, queue_full, unauthorized
from server.keys import Client, Keyring

OPEN: tuple[str, ...] = ("/health", "/ready")
LINGER_S, LINGER_BYTES = 2.0, 32 * 2**20  # what a refused body may still be read for


class KeyGuard:
    """Lets through who carries one of the keys; ``client_of`` tells whose it was."""

    def __init__(self, app: ASGIApp, keys: Keyring, open_paths: Sequence[str]) -> None:
        self._app = app
        self._keys = keys
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys.guards or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        found = self._holder(Headers(scope=scope).get("authorization"))
        if isinstance(found, Client):
            scope["dyvte.client"] = found
            await self._app(scope, receive, send)
        else:
            await found.response()(scope, receive, send)

    def _holder(self, authorization: str | None) -> Client | ApiError:
        if not authorization:
            return unauthorized("Give an API key: Authorization: Bearer KEY.")
        scheme, _, key = authorization.partition(" ")
        client = self._keys.holder(key.strip())
        if scheme.lower() == "bearer" and client is not None:
            return client
        return unauthorized("Incorrect API key provided.")


def client_of(request: Request) -> Client | None:
    """Whose key the request carries; None where no key is asked for."""
    client = request.scope.get("dyvte.client")
    assert client is None or isinstance(client, Client)
    return client


class BodyGuard:
    """Bounds a body in bytes and seconds, and all bodies together in bytes.

    The route's reading raises ApiError (413, 408, 429). A body counts until its response begins
    or, earlier, until the route calls its record's ``body_done``.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        timeout_s: float,
        on_too_large: Callable[[], None],
        max_together: float = math.inf,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._on_too_large = on_too_large
        self._max_together = max_together
        self._on_full = on_full
        self._together = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            self._on_too_large()
            if "expect" not in headers:  # who asks before sending is told at once
                await _discard(receive)
            await body_too_large(self._max_bytes).response()(scope, receive, send)
            return
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._together += size
            if self._together > self._max_together:
                self._on_full()
                raise queue_full(1.0)

        def let_go() -> None:
            nonlocal held
            self._together -= held
            held = 0

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                let_go()
            await send(message)

        if isinstance(record := scope.get("dyvte.record"), RequestRecord):
            record.body_done = let_go
        try:
            await self._app(scope, self._bounded(receive, hold), tell)
        finally:
            let_go()

    def _bounded(self, receive: Receive, hold: Callable[[int], None]) -> Receive:
        deadline = time.monotonic() + self._timeout_s
        received, whole = 0, False

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise body_too_slow() from None
            size = len(message.get("body", b""))
            received += size
            hold(size)
            whole = not message.get("more_body", False)
            if received > self._max_bytes:
                self._on_too_large()
                if not whole:
                    await _discard(receive)
                raise body_too_large(self._max_bytes)
            return message

        return bounded


async def _discard(receive: Receive) -> None:
    """Let a refused body run out for a moment, keeping nothing of it.

    A reply that comes while the client still writes closes the connection under it, and the
    client sees a reset instead of the reason.
    """
    received = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while received <= LINGER_BYTES:
                message = await receive()
                received += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
