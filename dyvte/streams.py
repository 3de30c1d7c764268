"""Points, times and a side line in a device's work, told without making the host wait.

On CUDA the host only enqueues: what it measures with its own clock is not what the device does,
and to wait for the device is to leave it idle afterwards. Here are the marks by which either knows
how far the other is. On a CPU everything has happened by the time it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Mark:
    """A point in what the device was given so far, on the stream in use."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """The host waits until the device is there."""
        if self._event is not None:
            self._event.synchronize()


class Lap:
    """How long the device takes from here to ``stop``, on the stream in use at either."""

    def __init__(self, device: torch.device) -> None:
        self._events = None
        if device.type == "cuda":
            self._events = torch.cuda.Event(True), torch.cuda.Event(True)
            self._events[0].record()
        self._began = time.perf_counter()
        self._seconds = 0.0

    def stop(self) -> None:
        """The lap ends here."""
        if self._events is not None:
            self._events[1].record()
        self._seconds = time.perf_counter() - self._began

    @property
    def done(self) -> bool:
        """True if the device has got to the end of it."""
        return self._events is None or self._events[1].query()

    @property
    def seconds(self) -> float:
        """Its length. Waits for its end."""
        if self._events is None:
            return self._seconds
        first, last = self._events
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000


Tell = Callable[[float], None]


class Timings:
    """Laps whose seconds somebody wants to hear, once it costs no waiting."""

    def __init__(self) -> None:
        self._laps: list[tuple[Lap, Tell]] = []

    def add(self, lap: Lap, tell: Tell) -> None:
        """``tell`` the seconds of ``lap`` with the next ``settle``."""
        self._laps.append((lap, tell))

    def settle(self) -> None:
        """Tell all, in their order. Waits for what the device has still to do of them."""
        laps, self._laps = self._laps, []
        for lap, tell in laps:
            tell(lap.seconds)


class SideLine:
    """Work that runs beside the device's main line, as far as the device has room for both.

    Nothing of it may be used before it was ``taken``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def run(self) -> Iterator[Lap]:
        """What is enqueued inside runs on the side, behind what the main line has been given.

        Gives the lap of it, which ends with the block.
        """
        if self._stream is None:
            yield from self._lap()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield from self._lap()

    def _lap(self) -> Iterator[Lap]:
        lap = Lap(self._device)
        try:
            yield lap
        finally:
            lap.stop()

    def taken(self, tensors: Iterable[Tensor]) -> None:
        """The main line uses ``tensors`` of the side from here on.

        It waits for the side; the host does not. Their memory stays theirs until it is done.
        """
        if self._stream is None:
            return
        main = torch.cuda.current_stream(self._device)
        main.wait_stream(self._stream)
        for each in tensors:
            each.record_stream(main)
