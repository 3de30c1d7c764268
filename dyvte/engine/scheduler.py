"""Who runs in the next step: pure integers, no tensors, no clock.

Waiting requests are admitted first come, first served, while seats and pages last; a prompt is
reserved as if nothing exits. Those that wait together become one group, which crosses the layers
together; who comes later waits for the next. While others decode, a group's step is bounded: the
runner cuts it by images, layers and rows (see ``dyvte.engine.pieces``), and every running
sequence decodes in between. When the pool runs dry the youngest sequence gives its pages back and
is recomputed later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from dyvte.pages import OutOfPages, PageLedger


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

    ``bounded``: somebody waits for the step to end, so the group runs no more than the budget of
    a stall. ``background``: nobody does yet, but might soon. ``preempted`` have lost their pages
    and wait again.
    """

    group: tuple[int, ...] = ()
    bounded: bool = False
    background: bool = False
    decode: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()

    @property
    def idle(self) -> bool:
        """True if there is nothing to run."""
        return not self.group and not self.decode


@dataclass(slots=True)
class Scheduler:
    """Waiting line, the prefill group in flight, and the running sequences."""

    ledger: PageLedger
    limits: Limits
    waiting: deque[Work] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)
    group: list[Work] = field(default_factory=list)
    cached_rows: Callable[[Hashable], int] = lambda prefix: 0

    @property
    def has_work(self) -> bool:
        """True if a step would do something."""
        return bool(self.waiting or self.running or self.group)

    def add(self, work: Work) -> None:
        """Put a request at the end of the line."""
        self.waiting.append(work)

    def plan(self, kv_rows: Callable[[int], Sequence[int]]) -> Plan:
        """Choose the next step; ``kv_rows(seq)`` are the rows that each layer holds now.

        Mutates the ledger (growth, reservations, preemptions) and the lists.
        """
        preempted = self._grow_running(kv_rows)
        if not self.group and not preempted:
            self._admit()
        background = any(work.background for work in self.group)
        return Plan(
            group=tuple(work.seq for work in self.group),
            bounded=bool(self.group) and (background or bool(self.running)),
            background=background,
            decode=tuple(self.running),
            preempted=tuple(preempted),
        )

    def prefilled(self, seq: int, kv_rows: Sequence[int]) -> None:
        """A sequence of the group has its first logits: settle its pages and let it decode."""
        self.group = [work for work in self.group if work.seq != seq]
        self.ledger.settle(seq, kv_rows)
        self.running.append(seq)

    def join(self, seq: int) -> None:
        """A forked choice decodes from now on (its pages are the fork's)."""
        self.running.append(seq)

    def wait_again(self, work: Work) -> None:
        """A sequence without pages goes to the head of the line."""
        self.waiting.appendleft(work)

    def remove(self, seq: int) -> None:
        """Finished, failed or aborted: forget it and return its pages, wherever it was."""
        self.waiting = deque(work for work in self.waiting if work.seq != seq)
        self.group = [work for work in self.group if work.seq != seq]
        if seq in self.running:
            self.running.remove(seq)
        self.ledger.release(seq)

    def _grow_running(self, kv_rows: Callable[[int], Sequence[int]]) -> list[int]:
        """Room for one more row in every layer of every running sequence, oldest first."""
        preempted: list[int] = []
        for seq in sorted(self.running):
            while seq in self.running:
                try:
                    self.ledger.grow(seq, [rows + 1 for rows in kv_rows(seq)])
                    break
                except OutOfPages:
                    victim = max(self.running)
                    self.running.remove(victim)
                    self.ledger.release(victim)
                    preempted.append(victim)
        return preempted

    def _admit(self) -> None:
        """Fill a new group from the head of the line; never skip over anybody."""
        seats = self.limits.max_num_seqs - len(self.running)
        rows = 0
        while self.waiting:
            work = self._informed(self.waiting[0])
            full = bool(self.group) and rows + work.fresh > self.limits.max_group_rows
            if work.copies > seats or full or self._waits_for_group(work):
                return
            if not self.ledger.fits(work.rows + 1, work.copies) or not self._leaves_room(work):
                return
            self.ledger.reserve(work.seq, work.rows)
            self.waiting.popleft()
            self.group.append(work)
            seats -= work.copies
            rows += work.fresh

    def _informed(self, work: Work) -> Work:
        """With the rows that are cached now."""
        return work if work.prefix is None else replace(work, cached=self.cached_rows(work.prefix))

    def _waits_for_group(self, work: Work) -> bool:
        """True if one of the group is about to compute what it could take from there.

        Only once: what that one computes may turn out to be nothing that can be taken.
        """
        if work.prefix is None or work.cached or not work.patient:
            return False
        if all(each.prefix != work.prefix for each in self.group):
            return False
        for at, each in enumerate(self.waiting):
            if each.prefix == work.prefix:
                self.waiting[at] = replace(each, patient=False)
        return True

    def _leaves_room(self, work: Work) -> bool:
        """A page per layer stays for each running sequence, or admission would preempt it."""
        needed = work.copies * self.ledger.pages_for(work.rows + 1) + len(self.running)
        return needed * self.ledger.num_layers <= self.ledger.num_free or not self.running
