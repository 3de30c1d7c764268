"""Who is about to come: an idle engine lets them in before it begins.

Requests that are sent together arrive one by one, as their pictures are made ready. Begun with the
first alone, a prefill would hold up the others for as long as it takes, and they would run beside
its decodes in pieces. Waiting for them costs a fraction of the work that is waited with, and
nothing at all when nobody is being made ready. Knows no request and no engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_S = 0.01  # from the end of a preparation until its request is handed in
POLL_S = 0.002
SHARE = 0.15  # of the work at hand may pass in waiting for company
LONGEST_S = 0.3


class Arrivals:
    """Counts requests that are being made ready. Told from many threads, asked from one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._preparing = 0
        self._ended = -GRACE_S

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """One request is being made ready for as long as the context lasts."""
        with self._lock:
            self._preparing += 1
        try:
            yield
        finally:
            with self._lock:
                self._preparing -= 1
                self._ended = self._clock()

    @property
    def expected(self) -> bool:
        """True while somebody is being made ready, and for a moment after."""
        return self._preparing > 0 or self._clock() - self._ended < GRACE_S


def patience(seconds_waiting: float) -> float:
    """How long to wait for company with work of ``seconds_waiting`` at hand."""
    return min(LONGEST_S, SHARE * seconds_waiting)
