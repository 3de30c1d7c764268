"""Who runs in the next step: pure integers, no tensors, no clock.

Waiting requests are admitted first come, first served, while seats and pages last; a prompt is
reserved as if nothing exits. Those that wait together become one group, which crosses the layers
together; who comes later waits for the next. While others decode, a group's step is bounded: the
runner cuts it by images, layers and rows (see ``dyvte.engine.pieces``), and every running
sequence decodes in between. Light prompts, whose prefill is no more than such a step, do not wait
for the others: they pass in steps of their own, never two in a row, and take no seat or page that
the first of the others needs. When the pool runs dry the youngest sequence gives its pages back and
is recomputed later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dyvte.engine.plan import Limits, Plan, Room, Work
from dyvte.pages import OutOfPages, PageLedger


@dataclass(slots=True)
class Scheduler:
    """Waiting line, the prefill group in flight, and the running sequences.

    ``cost(seq)`` is the work of a waiting sequence's prefill as things are; None if more than
    layers has to run. ``passing`` are in prefill beside the group, for one step.
    """

    ledger: PageLedger
    limits: Limits
    waiting: deque[Work] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)
    group: list[Work] = field(default_factory=list)
    passing: list[Work] = field(default_factory=list)
    cached_rows: Callable[[Hashable], int] = lambda prefix: 0
    cost: Callable[[int], int | None] = lambda seq: None
    _passed: bool = False

    @property
    def has_work(self) -> bool:
        """True if a step would do something."""
        return bool(self.waiting or self.running or self.group)

    def add(self, work: Work) -> None:
        """Put a request at the end of the line."""
        self.waiting.append(work)

    def plan(self, kv_rows: Callable[[int], Sequence[int]], light: int = 0) -> Plan:
        """Choose the next step; ``kv_rows(seq)`` are the rows that each layer holds now.

        Prefills of no more than ``light`` work may pass others. Mutates the ledger (growth,
        reservations, preemptions) and the lists.
        """
        preempted = self._grow_running(kv_rows)
        self.passing = [] if preempted or self._passed else self._admit_lights(light)
        self._passed = bool(self.passing)
        if not preempted and not self.passing and not self.group:
            self.group = self._admit(light)
        group = [] if self.passing else self.group
        background = any(work.background for work in group)
        return Plan(
            passing=tuple(work.seq for work in self.passing),
            group=tuple(work.seq for work in group),
            bounded=bool(group) and (background or bool(self.running)),
            background=background,
            decode=tuple(self.running),
            preempted=tuple(preempted),
        )

    def prefilled(self, seq: int, kv_rows: Sequence[int]) -> None:
        """A sequence in prefill has its first logits: settle its pages and let it decode."""
        self._leave_prefill(seq)
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
        self._leave_prefill(seq)
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

    def _leave_prefill(self, seq: int) -> None:
        self.group = [work for work in self.group if work.seq != seq]
        self.passing = [work for work in self.passing if work.seq != seq]

    def _admit(self, light: int) -> list[Work]:
        """A new group from the head of the line, of which nobody is skipped over.

        Where there is room for light ones and others, the light keep theirs for a step of their
        own, which comes next.
        """
        seats, pages = self.limits.max_num_seqs - len(self.running), self.ledger.num_free
        rows, chosen = 0, list[Work]()
        for work in map(self._informed, list(self.waiting)):
            full = bool(chosen) and rows + work.fresh > self.limits.max_group_rows
            if work.copies > seats or full or self._waits_for(chosen, work):
                break
            if not self._fits(work, pages):
                break
            chosen.append(work)
            seats -= work.copies
            pages -= self.ledger.num_layers * self.ledger.pages_for(work.rows)
            rows += work.fresh
        heavy = [work for work in chosen if not self._is_light(work, light)]
        for work in heavy or chosen:
            self.ledger.reserve(work.seq, work.rows)
        return self._out_of_line(heavy or chosen)

    def _admit_lights(self, light: int) -> list[Work]:
        """Those that pass a group in flight, or others that wait."""
        if not self.group and all(self._is_light(work, light) for work in self.waiting):
            return []
        chosen = self._within(self._lights_with_room(light), light)
        for work in chosen:
            self.ledger.reserve(work.seq, work.rows)
        # Their pages may have been those of a prefix that one of them was going to take.
        still = self._within(chosen, light)
        for work in chosen[len(still) :]:
            self.ledger.release(work.seq)
        return self._out_of_line(still)

    def _lights_with_room(self, light: int) -> Iterator[Work]:
        """Light ones in their order, as long as the first of the others would find room as well."""
        room, others = self._room(), False
        for work in map(self._informed, self.waiting):
            pages = work.copies * self.ledger.pages_for(work.rows + 1)
            if self._is_light(work, light):
                if not room.take(work.copies, pages + work.copies):
                    return
                yield work
            elif not others:
                others = True
                if not room.take(work.copies, pages):
                    return

    def _within(self, works: Iterable[Work], light: int) -> list[Work]:
        """As many of the first as are ``light`` together, and one of each prefix: who takes it
        first may leave less of it."""
        chosen, rows, prefixes = list[Work](), 0, set[Hashable]()
        for work in works:
            cost, rows = self.cost(work.seq), rows + work.fresh
            full = bool(chosen) and rows > self.limits.max_group_rows
            if cost is None or cost > light or full or work.prefix in prefixes:
                break
            light -= cost
            chosen.append(work)
            prefixes |= {work.prefix} - {None}
        return chosen

    def _is_light(self, work: Work, light: int) -> bool:
        cost = self.cost(work.seq) if light else None
        return cost is not None and cost <= light

    def _room(self) -> Room:
        """What will be left when all in flight run, with a page more in each layer to grow into."""
        seats = self.limits.max_num_seqs - len(self.running)
        pages = self.ledger.num_free // self.ledger.num_layers - len(self.running)
        for work in self.group:
            seats -= work.copies
            pages += self.ledger.pages_for(work.rows)
            pages -= work.copies * (self.ledger.pages_for(work.rows + 1) + 1)
        return Room(seats, pages)

    def _out_of_line(self, works: list[Work]) -> list[Work]:
        gone = {work.seq for work in works}
        self.waiting = deque(work for work in self.waiting if work.seq not in gone)
        return works

    def _informed(self, work: Work) -> Work:
        """With the rows that are cached now."""
        return work if work.prefix is None else replace(work, cached=self.cached_rows(work.prefix))

    def _waits_for(self, group: Sequence[Work], work: Work) -> bool:
        """True if one of a new ``group`` is about to compute what it could take from there.

        Only once: what that one computes may turn out to be nothing that can be taken.
        """
        if work.prefix is None or work.cached or not work.patient:
            return False
        if all(each.prefix != work.prefix for each in group):
            return False
        for at, each in enumerate(self.waiting):
            if each.prefix == work.prefix:
                self.waiting[at] = replace(each, patient=False)
        return True

    def _fits(self, work: Work, pages: int) -> bool:
        """True if it can have that many of ``pages``, all that are free.

        A page per layer stays for each running sequence, or admission would preempt it.
        """
        needed = work.copies * self.ledger.pages_for(work.rows + 1) + len(self.running)
        return needed * self.ledger.num_layers <= pages
