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
        self._event = _recorded(device) if device.type == "cuda" else None

    def wait(self) -> None:
        """The host waits until the device is there."""
        if self._event is not None:
            self._event.synchronize()


class Lap:
    """How long the device takes from here to ``stop``, on the stream in use at either."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = _recorded(device, timed=True) if device.type == "cuda" else None
        self._last: torch.cuda.Event | None = None
        self._began = time.perf_counter()
        self._seconds = 0.0

    def stop(self) -> None:
        """The lap ends here."""
        if self._first is not None:
            self._last = _recorded(self._device, timed=True)
        self._seconds = time.perf_counter() - self._began

    @property
    def done(self) -> bool:
        """True if the device has got to the end of it."""
        return self._last is None or self._last.query()

    @property
    def seconds(self) -> float:
        """Its length, once it was stopped. Waits for its end."""
        if self._first is None or self._last is None:
            return self._seconds
        self._last.synchronize()
        return float(self._first.elapsed_time(self._last)) / 1000


def _recorded(device: torch.device, timed: bool = False) -> torch.cuda.Event:
    """An event on the stream in use of that device, which need not be the current one."""
    event = torch.cuda.Event(enable_timing=timed)
    event.record(torch.cuda.current_stream(device))
    return event


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
