"""``create_app``: settings and a way to open an engine → the HTTP service.

Importing this loads no torch; the engine is opened in a thread when the app starts, and closed
in order when it ends. Layers from outside in: request context, CORS, key, body bounds, door,
routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from dyvte.engine.events import Engine
from server.api import playground
from server.api.chat import Chat
from server.api.chat_objects import ChatCompletion
from server.api.completions import Completions
from server.api.context import RequestContext
from server.api.door import Door
from server.api.errors import ApiError, bad_request, of_status
from server.api.exits import in_force, promised_risk, server_default
from server.api.guard import OPEN, BodyGuard, KeyGuard
from server.api.models import ModelCard, ModelList
from server.api.openapi import (
    CHAT,
    COMPLETIONS,
    DETOKENIZE,
    RESPONSES,
    TOKENIZE,
    answer,
    errors,
    install_schema,
    stream_responses,
)
from server.api.responses.reply import ResponseObject
from server.api.responses.route import Responses, not_stored
from server.api.service import Service
from server.api.text_reply import TextCompletion
from server.api.tokens import Detokenized, Tokenized, Tokens
from server.keys import Keyring
from server.lifecycle import Lifecycle, OpenEngine
from server.metrics import ServerMetrics
from server.preprocess import Preprocessor
from server.settings import Settings
from server.shadow_metrics import Promise

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def version() -> str:
    """The installed version of the package."""
    try:
        return installed_version("dyvte")
    except PackageNotFoundError:
        return "0+unknown"


def create_app(
    settings: Settings,
    open_engine: OpenEngine,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """The service. ``open_engine`` is called once, in a thread, when the app starts.

    ``on_failure`` is told if that fails, so that the process can end. ``app.state.lifecycle``
    drains, which is how a SIGTERM reaches the service; ``app.state.loading`` is the task that
    opens the engine; ``app.state.on_malformed`` counts what the protocol refused as no HTTP.
    """
    metrics = ServerMetrics(settings.name, settings.metrics_compat)
    keys = Keyring.of(settings)
    lifecycle = Lifecycle(
        settings,
        open_engine,
        on_ready=lambda engine: metrics.bind(
            engine,
            version(),
            settings.shadow_share,
            _promise(engine, settings),
        ),
        on_refusal=metrics.refusal,
        on_failure=on_failure,
    )
    metrics.watch(lambda: lifecycle.ready)
    preprocessor = Preprocessor(settings, metrics)
    app = FastAPI(
        title="DyVTE",
        version=version(),
        lifespan=_lifespan(lifecycle, preprocessor),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would name the host and scheme that the client believes in
    )
    app.state.lifecycle = lifecycle
    app.state.on_malformed = metrics.malformed
    _add_routes(
        app,
        Chat(settings, lifecycle, preprocessor, metrics, version()),
        Service(settings, lifecycle, metrics, version()),
        settings,
    )
    install_schema(app, guarded=keys.guards)
    _add_layers(app, settings, metrics, keys, lifecycle)
    _add_error_handlers(app)
    return app


def _promise(engine: Engine, settings: Settings) -> Promise:
    """What the default exits of this server promise, and under which policy they are counted."""
    default = in_force(server_default(engine.info, settings), engine, settings)
    return Promise(default.policy, promised_risk(engine.info, settings))


def _lifespan(lifecycle: Lifecycle, preprocessor: Preprocessor) -> Lifespan:
    """Load beside the running app; at the end drain, whoever asked for the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(lifecycle.load(), name="load")
        app.state.loading = loading
        try:
            yield
        finally:
            await lifecycle.drain()
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
            await preprocessor.close()

    return lifespan


def _add_generation(app: FastAPI, chat: Chat) -> None:
    """The routes that generate, and those that only count tokens."""
    plain: dict[str, Any] = {"response_model": None}
    app.post(CHAT, responses=stream_responses(ChatCompletion), **plain)(chat.answer)
    parts = (chat.settings, chat.lifecycle, chat.preprocessor)
    text = Completions(*parts, chat.metrics, chat.version)
    app.post(COMPLETIONS, responses=stream_responses(TextCompletion), **plain)(text.answer)
    responses = Responses(*parts, chat.metrics, chat.version)
    app.post(RESPONSES, responses=stream_responses(ResponseObject), **plain)(responses.answer)
    lost: dict[str, Any] = {**plain, "status_code": 404, "responses": errors(401, 404)}
    for method in (app.get, app.delete):
        method(RESPONSES + "/{response_id}", **lost)(not_stored)
    tokens = Tokens(*parts)
    statuses = (400, 401, 404, 408, 413, 429, 503)
    app.post(TOKENIZE, responses=answer(Tokenized, *statuses), **plain)(tokens.tokenize)
    app.post(DETOKENIZE, responses=answer(Detokenized, *statuses), **plain)(tokens.detokenize)


def _add_routes(app: FastAPI, chat: Chat, service: Service, settings: Settings) -> None:
    """All routes; the pages for people stay out of the schema."""
    plain: dict[str, Any] = {"response_model": None}
    hidden: dict[str, Any] = {**plain, "include_in_schema": False}
    _add_generation(app, chat)
    app.get("/v1/models", responses=answer(ModelList, 401, 503), **plain)(service.list_models)
    one = answer(ModelCard, 401, 404, 503)
    app.get("/v1/models/{model:path}", responses=one, **plain)(service.show_model)
    app.get("/health", responses=errors(503), **plain)(service.health)
    app.get("/ready", responses=errors(503), **plain)(service.ready)
    app.get("/version", responses=errors(401), **plain)(service.show_version)
    if settings.metrics:
        app.get("/metrics", **hidden)(service.show_metrics)
    if settings.playground:
        app.get("/", **hidden)(playground.page)
        app.get("/docs", **hidden)(playground.reference)
        app.get("/favicon.ico", **hidden)(playground.favicon)
        app.mount(playground.MOUNT, playground.Assets())
    for path, probe in (("/health", service.health), ("/ready", service.ready)):
        app.head(path, **hidden)(probe)


def _add_layers(
    app: FastAPI, settings: Settings, metrics: ServerMetrics, keys: Keyring, lifecycle: Lifecycle
) -> None:
    """Innermost first: what is added later lies further out."""
    open_paths = OPEN
    if settings.playground:
        open_paths += playground.open_paths()
    if not settings.metrics_key:
        open_paths += ("/metrics",)
    app.add_middleware(Door, admit=lifecycle.admit, routes=app.routes)
    app.add_middleware(
        BodyGuard,
        max_bytes=settings.max_body,
        timeout_s=settings.body_timeout,
        on_too_large=lambda: metrics.refusal("body_too_large"),
        max_together=settings.max_bodies,
        on_full=lambda: metrics.refusal("queue_full"),
    )
    app.add_middleware(KeyGuard, keys=keys, open_paths=open_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After", "Retry-After-Ms"],
        )
    app.add_middleware(RequestContext, metrics=metrics)


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """What may be done with a path, by all its routes; each of them knows only its own."""
    reached = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in reached for method in getattr(route, "methods", None) or ()})


def _add_error_handlers(app: FastAPI) -> None:
    """Whatever the framework raises leaves in OpenAI's form."""

    async def told(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, headers = request.scope["path"], error.headers or {}
        if error.status_code == 405:
            headers = {**headers, "Allow": ", ".join(_methods(app, request.scope))}
        return of_status(error.status_code, request.method, path, headers).response()

    async def invalid(_: Request, __: Exception) -> Response:
        return bad_request("The request's parameters are not valid.").response()

    app.add_exception_handler(ApiError, told)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(RequestValidationError, invalid)
