"""The small routes: models, liveness, readiness, version, metrics.

``/health`` says that the process lives, ``/ready`` that a request would be served now; neither
asks for a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from server.api.errors import model_not_found, unavailable
from server.api.models import ModelCard, model_cards
from server.lifecycle import Lifecycle
from server.metrics import ServerMetrics
from server.settings import Settings

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


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

    def _cards(self) -> dict[str, ModelCard]:
        return model_cards(self.lifecycle.engine(), self.settings, self.created)
