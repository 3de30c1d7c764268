"""A replica's own port for Prometheus and for people: metrics, alive, ready, and nothing else.

A router hands ``/metrics`` to any replica, so that its counters would jump; scraped one by one
they add up. The app behind the port is the replica's, its key included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.errors import of_status
from server.protocol import bounded_protocol
from server.settings import Settings

PATHS = ("/metrics", "/health", "/ready")


class Monitor(uvicorn.Server):
    """Serves ``PATHS`` of an app that somebody else started and will end."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                _only_paths(app),
                http=bounded_protocol(settings),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to Ray's worker, whose process this is."""
        yield


def _only_paths(app: ASGIApp) -> ASGIApp:
    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PATHS:
            await app(scope, receive, send)
        else:
            refusal = of_status(404, scope["method"], scope["path"], {})
            await refusal.response()(scope, receive, send)

    return watched
