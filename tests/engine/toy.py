"""A scheduler with the least of an engine around it."""

from __future__ import annotations

from collections.abc import Sequence

from dyvte.engine.pieces import rows_within, work_of
from dyvte.engine.plan import Limits, Plan, Work
from dyvte.engine.scheduler import Scheduler
from dyvte.flops import DecoderShape
from dyvte.pages import PageLedger

LAYERS, PAGE, LEAST = 4, 8, 8


SHAPE = DecoderShape(LAYERS, 8, 16, 2, 2, 4, 10)
ROW = SHAPE.linear(1)


class Toy:
    """A scheduler with the least of an engine around it: rows are counted, nothing is computed.

    ``budget`` is the work that a bounded step may do; ``ran`` lists what each step's group did.
    Who costs no more than ``light`` may pass: a ``ROW`` each row, unless it shows ``pictures``.
    """

    def __init__(
        self, pages: int = 1000, budget: int = 10**9, light: int = 0, **limits: int
    ) -> None:
        self.scheduler = Scheduler(PageLedger(pages, PAGE, LAYERS), Limits(**limits))
        self.scheduler.cost = self.cost
        self.light = light
        self.pictures: set[int] = set()
        self.rows: dict[int, int] = {}
        self.left: dict[int, tuple[int, int]] = {}
        self.budget = budget
        self.ran: list[int] = []
        self._begun: tuple[int, ...] = ()
        self._layer = self._done = 0

    def add(self, *rows: int) -> None:
        for each in rows:
            seq = len(self.rows)
            self.rows[seq] = each
            self.scheduler.add(Work(seq, each))

    def add_with_exit(self, rows: int, layer: int, gone: int) -> None:
        """One of whose rows so many leave after ``layer``."""
        self.left[len(self.rows)] = (layer, min(gone, rows - 1))
        self.add(rows)

    def add_pictures(self, *rows: int) -> None:
        """Some whose images have to be encoded."""
        self.pictures |= set(range(len(self.rows), len(self.rows) + len(rows)))
        self.add(*rows)

    def cost(self, seq: int) -> int | None:
        return None if seq in self.pictures else self.rows[seq] * ROW

    def kv_rows(self, seq: int) -> Sequence[int]:
        layer, gone = self.left.get(seq, (LAYERS, 0))
        rows = self.rows[seq]
        return [rows - gone * (at > layer) for at in range(LAYERS)]

    def step(self) -> Plan:
        """Plan, and do as the engine does: a prefill that ends decodes, a decode adds a row."""
        plan = self.scheduler.plan(self.kv_rows, self.light)
        for seq in sorted(plan.preempted, reverse=True):
            self.scheduler.wait_again(Work(seq, self.rows[seq]))
        for seq in plan.decode:
            self.rows[seq] += 1
        self.ran.append(self._advance(plan) if plan.group else 0)
        for seq in plan.passing:
            self.scheduler.prefilled(seq, self.kv_rows(seq))
        if plan.group and self._layer == LAYERS:
            for seq in plan.group:
                self.scheduler.prefilled(seq, self.kv_rows(seq))
        return plan

    def _advance(self, plan: Plan) -> int:
        """Rows and layers of the group, within the budget if the step is bounded."""
        if not set(plan.group) & set(self._begun):
            self._begun, self._layer, self._done = plan.group, 0, 0
        spent = 0
        total = sum(self.rows[seq] for seq in plan.group)
        while plan.group and self._layer < LAYERS:
            left = [(total - self._done, self._done)]
            rows = left[0][0]
            if plan.bounded:
                rows = rows_within(SHAPE, left, self.budget - spent, LEAST, not spent)
            if not rows:
                break
            spent += work_of(SHAPE, left, rows, LEAST)
            self._done += rows
            if self._done >= total:
                self._layer, self._done = self._layer + 1, 0
        return spent
