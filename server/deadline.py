"""Work that must be done by a moment: whoever waits longer is told, and the work is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from dyvte.errors import DyvteError

T = TypeVar("T")


class Overdue(DyvteError):
    """The request's time is up."""


async def in_time(work: Awaitable[T], deadline: float | None) -> T:
    """The result of ``work``, which is cancelled at ``deadline`` (the loop's clock; None: never).

    Raises Overdue.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError as error:
        if deadline is None or asyncio.get_running_loop().time() < deadline:
            raise  # the work's own
        raise Overdue("the request's time is up") from error
