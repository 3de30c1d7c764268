"""How long work takes here, learned from what has run; from that, how much fits a stall.

The only place where work (FLOPs) and seconds meet: others ask for a budget, an integer, and
spend it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RISE, FALL = 0.5, 0.1  # a slower machine is believed sooner than a faster one
MARGIN = 0.85  # of the stall is planned for: the next piece may be slower than those before
QUIET_S = 0.1  # where no stall is set: what works in the background yields this often
LEAST_ROWS = 64  # fewer rows of a layer cost as much: its weights are read either way


@dataclass(slots=True)
class Rate:
    """Seconds per FLOP: an average that rises faster than it falls. None: nothing was seen."""

    seconds: float | None = None

    def learn(self, work: int, seconds: float) -> None:
        """``work`` took ``seconds``."""
        if work <= 0:
            return
        seen = seconds / work
        if self.seconds is None:
            self.seconds = seen
        else:
            self.seconds += (RISE if seen > self.seconds else FALL) * (seen - self.seconds)


@dataclass(slots=True)
class Pace:
    """The budget of a step that others wait for, in FLOPs of the decoder.

    ``stall_s`` is the longest that prefills may hold up running streams (0: as long as they
    take); ``fixed`` a budget that no measurement changes. Before anything was seen a budget is
    ``first``. ``least`` rows of a layer are the smallest piece.
    """

    stall_s: float
    first: int
    fixed: int | None = None
    least: int = LEAST_ROWS
    layers: Rate = field(default_factory=Rate)
    vision: Rate = field(default_factory=Rate)

    def budget(self, background: bool = False) -> int | None:
        """Work that may run between two decode steps; None: all there is.

        Work in the background yields even where nothing else has to.
        """
        unlimited = self.fixed is None and not self.stall_s and not background
        return None if unlimited else self.piece

    @property
    def piece(self) -> int:
        """Work that fits a stall, or ``QUIET_S`` where none is set."""
        return self._within(MARGIN)

    @property
    def light(self) -> int:
        """A prefill of no more work may pass others. Alone in its step and not in each, it may
        take all of a stall: a stream meets the slowest of many pieces, but few of these."""
        return self._within(1.0)

    def _within(self, share: float) -> int:
        if self.fixed is not None:
            return self.fixed
        stall = share * (self.stall_s or QUIET_S)
        return int(stall / self.layers.seconds) if self.layers.seconds else self.first

    def image_work(self, flops: int) -> int:
        """FLOPs of the vision tower as as many of the decoder as take the same time."""
        if self.fixed is not None or not self.layers.seconds or not self.vision.seconds:
            return flops
        return int(flops * self.vision.seconds / self.layers.seconds)
