"""A host of images on a loopback port, with TLS of its own, that answers by a script.

What it was asked for and what came with it is kept, so that a test can see what a client sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import trustme
from httpx_secure import httpx_ssrf_protection

from server.remote import RemoteImages

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: int = 200, **headers: str) -> Script:
    """A whole answer; ``content_type`` becomes ``Content-Type``."""
    sent = {"content_length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in sent.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, "Connection: close", "", ""])

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)

    return script


def dripping(chunk: bytes, every_s: float, head: bytes = b"HTTP/1.1 200 X\r\n\r\n") -> Script:
    """An answer that never ends."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(every_s)

    return script


@dataclass
class ImageHost:
    """``scripts`` by path; ``asked`` are the heads of all requests."""

    port: int = 0
    trusted: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    scripts: Mapping[str, Script] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "/a.png") -> str:
        return f"https://localhost:{self.port}{path}"

    def client(self, timeout_s: float = 5.0, *hosts: str) -> RemoteImages:
        """What fetches from here, as if a loopback address were a public one."""
        named = hosts or (f"localhost:{self.port}",)
        return RemoteImages(named, timeout_s, verify=self.trusted, protect=anywhere)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            await self.scripts[head.split()[1]](writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def anywhere(client: httpx.AsyncClient) -> httpx.AsyncClient:
    return httpx_ssrf_protection(
        client, check_globally_reachable=False, custom_validator=lambda *_: True
    )


@asynccontextmanager
async def image_host(**scripts: Script) -> AsyncIterator[ImageHost]:
    """A host on ``localhost``; ``a=answer(b"…")`` is at ``/a.png``."""
    authority = trustme.CA()
    certified = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(certified)
    host = ImageHost(scripts={f"/{name}.png": script for name, script in scripts.items()})
    authority.configure_trust(host.trusted)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=certified)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
