"""Around every request: its id, its fate in one log line and one count, and our own faults.

A pure ASGI layer, the outermost. A log line carries no prompt, no image and no key.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dyvte.engine.stats import RequestStats
from dyvte.params import SamplingParams
from server.api.body import ClientGone
from server.api.errors import internal
from server.logs import traceback_of
from server.metrics import ServerMetrics

log = structlog.get_logger("dyvte.request")

CLIENT_GONE = 499
QUIET = {"/health", "/ready", "/metrics"}
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Answered:
    """A generation that is complete: its account, and seconds spent before the engine had it."""

    stats: RequestStats
    sampling: SamplingParams
    preprocess: float
    before_submit: float
    completion_tokens: int
    finish_reasons: tuple[str, ...]


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request while it is served; ``notes`` go to its log line.

    ``answers`` has one per prompt, once all are complete; ``status`` is 0 until its reply begins;
    ``body_done`` is to be called once nothing holds its body any more.
    """

    request_id: str
    arrived: float = field(default_factory=time.perf_counter)
    notes: dict[str, object] = field(default_factory=dict)
    answers: list[Answered] = field(default_factory=list)
    status: int = 0
    client_gone: bool = False
    deadline: float | None = None
    body_done: Callable[[], None] = lambda: None

    @property
    def seconds(self) -> float:
        """Since the request arrived."""
        return time.perf_counter() - self.arrived


def new_request_id() -> str:
    """For a request that brought none."""
    return f"req_{uuid.uuid4().hex}"


def record_of(request: Request) -> RequestRecord:
    """The record of the request that is being served."""
    record = request.scope["dyvte.record"]
    assert isinstance(record, RequestRecord)
    return record


class RequestContext:
    """The layer."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        sane = _SANE_ID.fullmatch(given)
        record = RequestRecord(given if sane else new_request_id())
        scope["dyvte.record"] = record

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.request_id
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except ClientGone:
            record.client_gone = True
        except Exception as error:
            log.error("fault", id=record.request_id, exception=traceback_of(error))
            if not record.status:
                await internal(record.request_id).response()(scope, receive, tell)
        finally:
            self._close(scope, record, CLIENT_GONE if record.client_gone else record.status)

    def _close(self, scope: Scope, record: RequestRecord, status: int) -> None:
        path, client = scope["path"], scope.get("dyvte.client")
        if client is not None:
            record.notes["client"] = client.name
        self._metrics.request(path, status)
        write = log.debug if path in QUIET else log.info
        write(
            "request",
            id=record.request_id,
            method=scope["method"],
            path=path[:200],
            status=status,
            ms=round(record.seconds * 1000, 1),
            **record.notes,
        )
