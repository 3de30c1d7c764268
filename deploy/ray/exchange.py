"""One HTTP request as values: a scope and a body in, ASGI messages out.

What crosses from the ingress to a replica must be plain data; here it becomes a call of the app
again. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from starlette.types import ASGIApp, Message, Scope

LAST_WORDS_S = 5.0
_PLAIN = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string")


def plain_scope(scope: Scope) -> Scope:
    """The part of an HTTP scope that is data; apps, routers and state stay behind."""
    kept = {name: scope[name] for name in _PLAIN if name in scope}
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return {
        **kept,
        "asgi": {"version": "3.0"},
        "root_path": scope.get("root_path", ""),
        "client": scope.get("client"),
        "server": scope.get("server"),
        "headers": headers,
    }


async def respond(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
    """The app's messages as they come; what is ready at the same time comes together.

    Closing the generator is the client's leaving: the app hears of it and may finish. Raises what
    the app raises.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    running = asyncio.ensure_future(_run(app, scope, body, messages, gone))
    try:
        ended = False
        while not ended:
            batch = [await messages.get(), *_waiting(messages)]
            ended = batch[-1] is None
            if ready := [message for message in batch if message is not None]:
                yield ready
        await running
    finally:
        gone.set()
        if not running.done():
            await asyncio.wait({running}, timeout=LAST_WORDS_S)
            running.cancel()


async def _run(
    app: ASGIApp,
    scope: Scope,
    body: bytes,
    messages: asyncio.Queue[Message | None],
    gone: asyncio.Event,
) -> None:
    """Call the app; ``messages`` gets what it sends and, at its end, None."""
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    try:
        await app(scope, receive, send)
    finally:
        messages.put_nowait(None)


def _waiting(messages: asyncio.Queue[Message | None]) -> Iterable[Message | None]:
    while not messages.empty():
        yield messages.get_nowait()
