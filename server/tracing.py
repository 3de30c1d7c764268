"""Traces for an OpenTelemetry collector, where an operator asks for them; else nothing is loaded.

A request's spans are made in one go when it has ended, and sent by a thread of the SDK's own from
a queue that is bounded: no request ever waits for a collector, and one that is away costs spans.
The provider is this server's alone; nothing global is set.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.context import RequestRecord
from server.settings import ConfigError, Settings
from server.spans import OPERATIONS, write_spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger("dyvte.server")

LAST_SPANS_S = 2.0  # for what is still queued when the server ends
TRACES = "/v1/traces"
REMEDY = "pip install 'dyvte[otel]'"


class Tracing:
    """Where spans go."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import propagate

        self._provider = provider
        self._tracer = provider.get_tracer("dyvte")
        self._extract = propagate.extract  # the form that OTEL_PROPAGATORS names: W3C's

    def ended(self, scope: Scope, record: RequestRecord) -> None:
        """Spans of a request that has ended; a fault in them is nobody else's."""
        try:
            parent = self._extract(dict(Headers(scope=scope)))
            write_spans(self._tracer, parent, scope["path"], record)
        except Exception:
            log.exception("a span could not be written", id=record.request_id)

    def close(self) -> None:
        """Send what is queued, but do not wait long for it."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(LAST_SPANS_S)


class TraceLayer:
    """The outermost ASGI layer: looks at each generating request when it has ended."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            record = scope.get("dyvte.record")
            if isinstance(record, RequestRecord) and scope["method"] == "POST":
                if scope["path"] in OPERATIONS:
                    self._tracing.ended(scope, record)


@contextmanager
def traced(app: FastAPI, settings: Settings) -> Iterator[None]:
    """Trace what ``app`` answers for as long as the context lasts, if the operator asks for it.

    To be entered before the app starts. Raises ConfigError.
    """
    tracing = open_tracing(settings, app.version)
    if tracing is None:
        yield
        return
    app.add_middleware(TraceLayer, tracing=tracing)
    try:
        yield
    finally:
        tracing.close()


def open_tracing(settings: Settings, version: str) -> Tracing | None:
    """Where the operator's flag, or else OpenTelemetry's own variables, send spans; None: nowhere.

    Raises ConfigError if the flag is given and the packages are not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if settings.otlp_endpoint is None and not _asked_by(os.environ):
        return None
    try:
        provider = _provider(settings.otlp_endpoint, version)
    except ImportError as error:
        if settings.otlp_endpoint is None:  # the variables may be meant for other programs
            log.warning("no traces: OTEL_… asks for them", remedy=REMEDY)
            return None
        given = f"--otlp-endpoint {settings.otlp_endpoint}"
        raise ConfigError(f"{given}: OpenTelemetry is not installed; {REMEDY}") from error
    return Tracing(provider)


def _asked_by(environment: Mapping[str, str]) -> bool:
    """As OpenTelemetry's specification has it, but for a default endpoint."""
    prefix = "OTEL_EXPORTER_OTLP_"
    named = any(environment.get(prefix + name) for name in ("TRACES_ENDPOINT", "ENDPOINT"))
    if not named or environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return False
    protocol = environment.get(prefix + "TRACES_PROTOCOL") or environment.get(prefix + "PROTOCOL")
    if protocol in (None, "", "http/protobuf"):
        return True
    log.warning("no traces: only http/protobuf is spoken here", asked=protocol)
    return False


def _provider(endpoint: str | None, version: str) -> TracerProvider:
    """One that sends batches; what the flag does not say, OTEL_… variables do."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Of a collector that is away one line a batch is enough, without every try.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    ours = Resource.create({"service.name": "dyvte", "service.version": version})
    provider = TracerProvider(
        resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    url = None
    if endpoint is not None:
        url = endpoint if endpoint.endswith(TRACES) else endpoint.rstrip("/") + TRACES
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider
