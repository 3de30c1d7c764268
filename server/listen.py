"""uvicorn, run by us: a socket that can be refused in one line, bounds, and a SIGTERM that drains.

uvicorn's own way out closes the port first; then a load balancer sees refused connections while
answers still stream. Here the first signal lets the service drain behind an open port, where
newcomers get a 503, and the second one ends it at once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.protocol import bounded_protocol
from server.settings import ConfigError, Settings

KEEP_ALIVE_S = 30
LAST_CONNECTIONS_S = 5


def bind(settings: Settings) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    host, port = settings.host, settings.port
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"--host {host}: is not an address of this machine") from error
    family, address = info[0][0], info[0][4]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        reason = (error.strerror or "cannot be used").lower()
        raise ConfigError(f"--port {port}: {reason} on {host}; choose another") from error
    return bound


def check_tls(settings: Settings) -> None:
    """Certificate and key can be read and belong together. Raises ConfigError."""
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None:
            raise ConfigError(f"--ssl-keyfile {settings.ssl_keyfile}: needs --ssl-certfile")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = f"--ssl-certfile {settings.ssl_certfile}"
        if settings.ssl_keyfile is not None:
            named += f" --ssl-keyfile {settings.ssl_keyfile}"
        reason = "not a certificate chain and its key in PEM"
        if not isinstance(error, ssl.SSLError):
            reason = (getattr(error, "strerror", None) or reason).lower()
        raise ConfigError(f"{named}: {reason}; give readable files that belong together") from error


class Listener(uvicorn.Server):
    """The server process: one app on one socket until a signal or a failed load."""

    def __init__(self, app: FastAPI, settings: Settings, drain: Callable[[], Awaitable[None]]):
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(settings, app.state.on_malformed),
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_CONNECTIONS_S,
            )
        )
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until told to exit."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then exit. Second: exit now."""
        if self._draining is not None or self._loop is None:
            self.should_exit = True
            self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        await self._drain()
        self.should_exit = True
