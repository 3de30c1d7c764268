"""The door: a request that asks for work gets its place, or is turned away, before it is read.

A pure ASGI layer behind the key and the bounds of the body, and in front of the framework. Work is
whatever is POSTed, so that no route can forget to ask. Who is turned away has cost its head and
this reply; what is left of its body runs out at the connection (``server.protocol``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from server.admission import Place
from server.api.context import RequestRecord
from server.api.errors import ApiError
from server.keys import Client

Admit = Callable[[Client | None], AbstractContextManager[Place]]


class Door:
    """Holds a place from before a request's body is read until its reply has been written."""

    def __init__(self, app: ASGIApp, admit: Admit) -> None:
        self._app = app
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with ExitStack() as inside:
            try:
                place = inside.enter_context(self._admit(scope.get("dyvte.client")))
            except ApiError as refusal:
                await refusal.response()(scope, receive, send)
                return
            await self._app(scope, receive, send)
            record = scope["dyvte.record"]
            assert isinstance(record, RequestRecord)
            place.served = record.status < 400
