"""The door: a request that asks for work gets its place, or is turned away, before it is read.

A pure ASGI layer behind the key and the bounds of the body, and in front of the framework. Work is
whatever is POSTed to a route that there is, so that no route can forget to ask. Who is turned away
has cost its head and this reply; what is left of its body runs out at the connection
(``server.protocol``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.admission import Place
from server.api.context import RequestRecord
from server.api.errors import ApiError
from server.keys import Client

Admit = Callable[[Client | None], AbstractContextManager[Place]]


class Door:
    """Holds a place from before a request's body is read until its reply has been written.

    ``routes`` are the app's, as they are when a request comes.
    """

    def __init__(self, app: ASGIApp, admit: Admit, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._admit = admit
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_work(scope):
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

    def _is_work(self, scope: Scope) -> bool:
        """False also for a POST that the router answers itself, with a 404 or a 405."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        pages = (route for route in self._routes if isinstance(route, Route))
        return any(route.matches(scope)[0] is Match.FULL for route in pages)
