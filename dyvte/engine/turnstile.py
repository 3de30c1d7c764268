"""When to come back: the rate at which requests end, handed out as places in time.

Each one who is turned away is told a moment of its own, as far behind the last one told as
requests end apart. So those who return do so at the pace at which there is room, and not all at
once. Knows no queue and no clock of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0  # older ends say nothing about the present
UNKNOWN_GAP_S = 1.0
LONGEST_S = 60.0


@dataclass(slots=True)
class Turnstile:
    """``clock`` gives seconds that only grow."""

    clock: Callable[[], float] = time.monotonic
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    _told: float = 0.0

    def ended(self) -> None:
        """A request has ended: its place is free."""
        self._ends.append(self.clock())

    def retry_after(self) -> float:
        """Seconds after which the one who asks now may expect a place, at most a minute."""
        now = self.clock()
        self._told = min(max(self._told, now) + self._gap(now), now + LONGEST_S)
        return self._told - now

    def _gap(self, now: float) -> float:
        """Seconds per request that ended lately; grows while none does."""
        recent = [end for end in self._ends if now - end <= WINDOW_S]
        if not recent:
            return LONGEST_S if self._ends else UNKNOWN_GAP_S
        return (now - recent[0]) / len(recent) or UNKNOWN_GAP_S
