"""One answer on its way from a replica to the client, and its end where the replica's never comes.

A stream that has begun always ends in a way that a client can read: with its own end, or with an
error event. An event stream speaks every few seconds, so that a longer silence is a death.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from server.api.errors import ApiError

STREAM = "text/event-stream"
REQUEST_ID = "x-request-id"


class Relay:
    """``begun``: the client has the head of the response, so that nobody else can answer it."""

    def __init__(self, send: Send, silence_s: float) -> None:
        self._send = send
        self._silence_s = silence_s
        self._streams = False
        self._ended = False
        self.begun = False

    async def pass_on(self, messages: AsyncIterator[list[Message]]) -> None:
        """Send what comes until it ends. Raises what ``messages`` raises, and TimeoutError."""
        while True:
            async with asyncio.timeout(self._silence_s if self._streams else None):
                batch = await anext(messages, None)
            if batch is None:
                return
            for message in batch:
                await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            # Ray's proxy adds the same header to every response.
            del headers[REQUEST_ID]
            message = {**message, "headers": headers.raw}
            self._streams = Headers(raw=headers.raw).get("content-type", "").startswith(STREAM)
            self.begun = True
        else:
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def end(self, error: ApiError) -> None:
        """Tell a stream's reader why there is no more; a whole body can only be cut, by raising."""
        if self._ended:
            return
        if not self._streams:
            raise ConnectionAbortedError(error.detail["message"])
        event = b"data: " + error.body + b"\n\n"
        await self._send({"type": "http.response.body", "body": event, "more_body": False})
