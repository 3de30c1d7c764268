"""Work that several threads ask for at the same moment, done once.

The first who asks does it; those who come while it lasts wait for the same result. Nothing is
kept afterwards: this is no cache, and nobody learns from it what was asked for before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class InFlight(Generic[K, V]):
    """What is being worked on now, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[K, Future[V]] = {}

    def result(self, key: K, work: Callable[[], V]) -> V:
        """The result of ``work``, here or in the thread that has begun it. Raises what it raises.

        Whoever waits does so for work that is running, never for work in a queue.
        """
        with self._lock:
            running = self._running.get(key)
            mine = running is None
            if running is None:
                running = self._running[key] = Future()
        if mine:
            self._run(key, running, work)
        return running.result()

    def _run(self, key: K, future: Future[V], work: Callable[[], V]) -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                del self._running[key]
