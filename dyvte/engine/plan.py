"""What the scheduler deals in: work that waits, steps, room. Integers only."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seats, and the rows of one prefill group (more only where a single prompt is larger)."""

    max_num_seqs: int = 64
    max_group_rows: int = 8192


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence that needs a prefill of ``rows`` rows and then seats for ``copies`` choices.

    ``cached`` of the rows need not run. Sequences of one ``prefix`` share them: of several that
    wait while nothing is cached yet, one goes first, and the ``patient`` wait for it once.

    ``background``: its steps are bounded even if nobody waits now, so that whoever comes
    meanwhile does not wait long.
    """

    seq: int
    rows: int
    copies: int = 1
    background: bool = False
    prefix: Hashable | None = None
    cached: int = 0
    patient: bool = True

    @property
    def fresh(self) -> int:
        """Rows that must run."""
        return self.rows - self.cached


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. ``group`` are the sequences in prefill, ``decode`` those that get a token.

    ``passing`` are those whose prefill runs whole while the group rests, which has then no member
    here. ``bounded``: somebody waits for the step to end, so the group runs no more than the budget
    of a stall. ``background``: nobody does yet, but might soon. ``preempted`` have lost their pages
    and wait again.
    """

    passing: tuple[int, ...] = ()
    group: tuple[int, ...] = ()
    bounded: bool = False
    background: bool = False
    decode: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()

    @property
    def idle(self) -> bool:
        """True if there is nothing to run."""
        return not self.passing and not self.group and not self.decode


@dataclass(slots=True)
class Room:
    """Seats, and pages of every layer, that can be had."""

    seats: int
    pages: int

    def take(self, seats: int, pages: int) -> bool:
        """Take so many of each if there are; True if there were."""
        if seats > self.seats or pages > self.pages:
            return False
        self.seats -= seats
        self.pages -= pages
        return True
