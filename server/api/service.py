"""The small routes: models, liveness, readiness, version, metrics, playground.

``/health`` says that the process lives, ``/ready`` that a request would be served now; neither
asks for a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from starlette.responses import FileResponse, Response

from server.api.errors import model_not_found, unavailable
from server.api.models import ModelCard, model_cards
from server.lifecycle import Lifecycle
from server.metrics import ServerMetrics
from server.settings import Settings

PLAYGROUND = Path(__file__).parents[1] / "playground"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def as_json(value: Mapping[str, Any]) -> Response:
    """A 200 with ``value`` as JSON."""
    return Response(orjson.dumps(value), media_type="application/json")


@dataclass(frozen=True, slots=True)
class Service:
    """The routes, with what they need."""

    settings: Settings
    lifecycle: Lifecycle
    metrics: ServerMetrics
    version: str
    created: int = field(default_factory=lambda: int(time.time()))

    async def health(self) -> Response:
        """200 while the process can do anything at all."""
        if not self.lifecycle.alive:
            raise unavailable("The engine has stopped.", "engine_stopped")
        return as_json({"status": "ok"})

    async def ready(self) -> Response:
        """200 when the model is loaded and the server is not draining."""
        self.lifecycle.check_ready()
        return as_json({"status": "ready", "model": self.settings.name})

    async def show_version(self) -> Response:
        """The version that runs."""
        return as_json({"version": self.version})

    async def show_metrics(self) -> Response:
        """Prometheus' text format."""
        return Response(self.metrics.page(), media_type=PROMETHEUS)

    async def list_models(self) -> Response:
        """The base name first, then its aliases."""
        return as_json({"object": "list", "data": list(self._cards().values())})

    async def show_model(self, model: str) -> Response:
        """One of them."""
        cards = self._cards()
        if model not in cards:
            raise model_not_found(model, tuple(cards))
        return as_json(cards[model])

    async def playground(self) -> Response:
        """The page."""
        return FileResponse(PLAYGROUND / "index.html", headers=PAGE_HEADERS)

    async def playground_script(self) -> Response:
        """Its script."""
        return FileResponse(PLAYGROUND / "playground.js", headers=PAGE_HEADERS)

    async def playground_style(self) -> Response:
        """Its style."""
        return FileResponse(PLAYGROUND / "playground.css", headers=PAGE_HEADERS)

    async def favicon(self) -> Response:
        """The icon."""
        return FileResponse(PLAYGROUND / "favicon.svg", media_type="image/svg+xml")

    def _cards(self) -> dict[str, ModelCard]:
        return model_cards(self.lifecycle.engine(), self.settings, self.created)
