"""A client that burns as little as a client can: bytes made before, sockets kept, replies skimmed.

For load generators that share their cores with the server, whose own work is what they measure.
No HTTP library: a request is written as it lies here, and of a reply only the status, the headers'
names and the end are looked for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_TOKEN = b'"content":"'


@dataclass(frozen=True, slots=True)
class Skimmed:
    """A reply: ``first_token`` (seconds after its request was sent) is for streams that have one.

    ``head`` is in lower case.
    """

    status: int
    head: bytes
    body: bytes
    seconds: float
    first_token: float | None = None


Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(path: str, body: Mapping[str, Any]) -> bytes:
    """A whole request, ready to be written."""
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


@dataclass(slots=True)
class SpareClient:
    """Sends to ``url``; as many sockets as there are requests at once, each used again."""

    url: str
    _idle: deque[Socket] = field(default_factory=deque)

    async def send(self, request: bytes) -> Skimmed:
        """The reply to ``request``. Raises OSError or EOFError where there is none."""
        began = time.monotonic()
        reader, writer = socket = await self._socket()
        try:
            writer.write(request)
            head = (await reader.readuntil(_HEAD_END)).lower()
            body, first = await _body(reader, head)
        except BaseException:
            writer.close()
            raise
        ended = time.monotonic()
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append(socket)
        told = None if first is None else first - began
        return Skimmed(int(head[9:12]), head, body, ended - began, told)

    def close(self) -> None:
        """End the idle sockets."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _socket(self) -> Socket:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        address = urlsplit(self.url)
        return await asyncio.open_connection(address.hostname, address.port)


async def _body(reader: asyncio.StreamReader, head: bytes) -> tuple[bytes, float | None]:
    """The body as it came on the wire, and when its first token did."""
    _, declared, rest = head.partition(b"content-length:")
    if declared:
        return await reader.readexactly(int(rest.partition(b"\r\n")[0])), None
    body, first = b"", None
    while not body.endswith(_LAST_CHUNK):
        piece = await reader.read(65536)
        if not piece:
            raise EOFError("the stream broke off")
        body += piece
        if first is None and _TOKEN in body:
            first = time.monotonic()
    return body, first
