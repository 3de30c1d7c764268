"""Who is about to come: an idle engine lets them in before it begins.

Requests that are sent together arrive one by one, as their pictures are made ready. Begun with the
first alone, a prefill would hold up the others for as long as it takes, and they would run beside
its decodes in pieces. Waiting for them costs a fraction of the work that is waited with, and
nothing at all when nobody is being made ready. Knows no request and no engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_S = 0.01  # from the end of a preparation until its request, or the next, is handed in
POLL_S = 0.002
SHARE = 0.15  # of the work at hand may pass in waiting for company
LONGEST_S = 0.6


class Arrivals:
    """Counts requests that are being made ready. Told from many threads, asked from one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._preparing = 0
        self._ready: deque[float] = deque()  # when those were ready that were not handed in yet
        self._crowd = -GRACE_S  # when one of several was ready

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """One request is being made ready for as long as the context lasts."""
        with self._lock:
            self._preparing += 1
            several = self._preparing > 1
        try:
            yield
        finally:
            with self._lock:
                several = several or self._preparing > 1
                self._preparing -= 1
                now = self._clock()
                self._ready.append(now)
                self._crowd = now if several else self._crowd

    def came(self) -> None:
        """A request has been handed in: one of those that are ready, if any is."""
        with self._lock:
            if self._ready:
                self._ready.popleft()

    @property
    def expected(self) -> bool:
        """True while somebody is being made ready and not handed in, for a moment at most.

        Where several came at a time, for a moment after the last as well: there may be more.
        """
        with self._lock:
            now = self._clock()
            while self._ready and now - self._ready[0] >= GRACE_S:
                self._ready.popleft()
            crowded = now - self._crowd < GRACE_S
            return self._preparing > 0 or bool(self._ready) or crowded


def patience(seconds_waiting: float) -> float:
    """How long to wait for company with work of ``seconds_waiting`` at hand."""
    return min(LONGEST_S, SHARE * seconds_waiting)
