"""How long a request may take, from its arrival to its last token.

The operator sets a bound; a client may ask for less with ``X-Request-Timeout: SECONDS``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from server.api.errors import bad_request

HEADER = "x-request-timeout"


def deadline_of(headers: Mapping[str, str], most: float | None, since_s: float) -> float | None:
    """When a request that arrived ``since_s`` seconds ago must be done, on the loop's clock.

    None is no bound. Raises ApiError (400).
    """
    seconds = _allowed(headers.get(HEADER), most)
    return None if seconds is None else asyncio.get_running_loop().time() + seconds - since_s


def _allowed(asked: str | None, most: float | None) -> float | None:
    if asked is None:
        return most
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise bad_request("Invalid 'X-Request-Timeout': must be a number of seconds above 0.")
    return seconds if most is None else min(seconds, most)
