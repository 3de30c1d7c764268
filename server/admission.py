"""Who may come in: so many requests together, and so many of each API key.

What is refused here costs nothing but a look at two numbers: no body has been read yet. One event
loop asks, and between the look and the place nothing else runs, so that there are never more
inside than places, and nobody is refused while one is free. How much may wait in tokens is the
engine's to say, which knows them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dyvte.engine.turnstile import Turnstile
from server.api.errors import key_limit, queue_full
from server.keys import Client

MINUTE_S = 60.0


@dataclass(slots=True)
class _Usage:
    """What one key does: requests inside, and when those of the last minute came."""

    inside: int = 0
    arrivals: deque[float] = field(default_factory=deque)

    def lately(self, now: float) -> int:
        """Requests of the last minute."""
        while self.arrivals and now - self.arrivals[0] >= MINUTE_S:
            self.arrivals.popleft()
        return len(self.arrivals)


@dataclass(slots=True)
class Place:
    """One request's place. ``served`` False: it was an error, and quick, and says nothing about
    how fast answers are."""

    served: bool = True


class Admission:
    """Counts who is inside. ``on_refusal`` is told "queue_full" or "key_limit"."""

    def __init__(
        self,
        places: int,
        on_refusal: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inside = 0
        self._places = places
        self._on_refusal = on_refusal
        self._clock = clock
        self._turnstile = Turnstile(clock)
        self._usage: dict[str, _Usage] = {}

    @contextmanager
    def place(self, client: Client | None = None) -> Iterator[Place]:
        """A place for as long as the context lasts. Raises ApiError (429)."""
        usage = self._usage_of(client)
        if self.inside >= self._places:
            self._on_refusal("queue_full")
            raise queue_full(self._turnstile.retry_after())
        self.inside += 1
        usage.inside += 1
        place = Place()
        try:
            yield place
        finally:
            self.inside -= 1
            usage.inside -= 1
            if place.served:
                self._turnstile.ended()

    def _usage_of(self, client: Client | None) -> _Usage:
        """The key's book, with this request's arrival in it. Raises ApiError (429)."""
        if client is None:
            return _Usage()
        usage, now = self._usage.setdefault(client.name, _Usage()), self._clock()
        if client.concurrent is not None and usage.inside >= client.concurrent:
            self._on_refusal("key_limit")
            what = f"{client.concurrent} requests at a time"
            raise key_limit(what, self._turnstile.retry_after())
        if client.per_minute is not None:
            if usage.lately(now) >= client.per_minute:
                self._on_refusal("key_limit")
                free = usage.arrivals[0] + MINUTE_S - now
                raise key_limit(f"{client.per_minute} requests a minute", free)
            usage.arrivals.append(now)
        return usage
