"""``dyvte serve`` with one route more, ``/tasks``: how many tasks its event loop holds.

Memory, threads and files are seen from outside; tasks are not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from fastapi import FastAPI

from server import __main__ as composition
from server.app import create_app
from server.lifecycle import OpenEngine
from server.settings import Settings


def with_tasks(
    settings: Settings,
    open_engine: OpenEngine,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """The app and the route."""
    app = create_app(settings, open_engine, on_failure)

    async def tasks() -> dict[str, int]:
        return {"tasks": len(asyncio.all_tasks())}

    app.get("/tasks")(tasks)
    return app


if __name__ == "__main__":
    composition.create_app = with_tasks  # type: ignore[attr-defined]
    sys.exit(composition.main(sys.argv[1:]))
