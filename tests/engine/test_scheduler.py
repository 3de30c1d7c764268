"""Who runs next, in integers alone: no model, no tensors, no clock."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dyvte.engine.plan import Limits, Plan, Work
from tests.engine.toy import LAYERS, LEAST, PAGE, ROW, SHAPE, Toy


def test_first_come_first_served() -> None:
    toy = Toy(max_group_rows=20)
    toy.add(9, 9, 2, 2)
    assert [toy.step().group for _ in range(2)] == [(0, 1, 2), (3,)]


def test_nobody_is_skipped_over_for_being_large() -> None:
    toy = Toy(pages=2 * LAYERS)
    toy.add(8, 17, 1)
    toy.scheduler.ledger.reserve(99, 8)
    assert toy.step().idle
    toy.scheduler.ledger.release(99)


def test_an_empty_engine_takes_a_prompt_of_any_size_whole() -> None:
    toy = Toy(budget=ROW, max_group_rows=8)
    toy.add(100)
    assert toy.step() == Plan(group=(0,))
    assert toy.scheduler.running == [0]


def test_a_prefill_is_bounded_while_others_decode() -> None:
    toy = Toy()
    toy.add(5)
    toy.step()
    toy.add(7)
    assert toy.step() == Plan(group=(1,), bounded=True, decode=(0,))
    assert toy.step() == Plan(decode=(0, 1))


def test_one_in_the_background_is_bounded_though_nobody_waits() -> None:
    toy = Toy()
    toy.rows[0] = 5
    toy.scheduler.add(Work(0, 5, background=True))
    assert toy.step() == Plan(group=(0,), bounded=True, background=True)


def test_when_the_decodes_end_the_rest_of_a_cut_prefill_runs_at_once() -> None:
    toy = Toy(budget=40 * ROW)
    toy.add(2)
    toy.step()
    toy.add(40)
    assert toy.step().bounded
    assert toy.scheduler.group
    toy.scheduler.remove(0)
    assert toy.step() == Plan(group=(1,))
    assert toy.scheduler.running == [1]


def test_those_that_wait_together_go_together_and_nobody_joins_a_group_in_flight() -> None:
    """Its sequences are between two layers; the next group waits."""
    toy = Toy(budget=60 * ROW)
    toy.add(2)
    toy.step()
    toy.add(40)
    toy.step()
    toy.add(1, 2, 3)
    groups = [toy.step().group for _ in range(8)]
    assert groups[0] == (1,)
    assert next(group for group in groups if group != (1,)) == (2, 3, 4)


def test_seats_are_counted_in_choices() -> None:
    toy = Toy(max_num_seqs=3)
    toy.rows = {0: 4, 1: 4}
    toy.scheduler.add(Work(0, 4, copies=2))
    toy.scheduler.add(Work(1, 4, copies=2))
    assert toy.step().group == (0,)
    toy.scheduler.join(7)
    toy.rows[7] = 4
    toy.scheduler.ledger.reserve(7, 4)
    assert toy.step().group == ()
    toy.scheduler.remove(7)
    toy.scheduler.remove(0)
    assert toy.step().group == (1,)


def test_admission_leaves_a_page_per_layer_to_each_running_sequence() -> None:
    """Else the newcomer would be preempted again in the very next steps."""
    toy = Toy(pages=4 * LAYERS)
    toy.add(8)
    toy.step()
    toy.add(17)
    assert toy.step().group == ()
    toy = Toy(pages=6 * LAYERS)
    toy.add(8)
    toy.step()
    toy.add(17)
    assert toy.step().group == (1,)


def test_the_youngest_gives_its_pages_back_and_is_next_in_line() -> None:
    toy = Toy(pages=4 * LAYERS)
    toy.add(8, 8)
    toy.step()
    toy.add(3)
    while not (plan := toy.step()).preempted:
        pass
    assert plan.preempted == (1,)
    assert plan.decode == (0,)
    assert [work.seq for work in toy.scheduler.waiting] == [1, 2]
    assert 1 not in toy.scheduler.ledger.sequences


def test_an_exit_lets_one_more_in() -> None:
    """Settled pages are free at once: exits raise concurrency, not only speed."""
    for held, admitted in (([24] * 4, ()), ([24, 8, 8, 8], (1,))):
        toy = Toy(pages=6 * LAYERS)
        toy.add(24, 8)
        toy.scheduler.limits = Limits(max_group_rows=24)
        plan = toy.scheduler.plan(toy.kv_rows)
        assert plan.group == (0,)
        toy.scheduler.prefilled(0, held)
        plan = toy.scheduler.plan(lambda seq, held=held: held)  # type: ignore[misc]
        assert plan.group == admitted


LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=8)


@given(first=LENGTHS, later=LENGTHS, every=st.integers(1, 5), budget=st.integers(1, 300))
def test_neither_decodes_nor_prefills_starve(
    first: list[int], later: list[int], every: int, budget: int
) -> None:
    """Whoever decodes does so in every step, beside no more work than the budget or the smallest
    piece of a layer; and every step of a group does some work, so that it comes to its end."""
    toy = Toy(pages=100_000, budget=budget * ROW)
    toy.add(*first)
    coming = list(later)
    steps = 0
    while coming or toy.scheduler.waiting or toy.scheduler.group:
        if coming and steps % every == 0:
            toy.add(coming.pop())
        before = set(toy.scheduler.running)
        plan = toy.step()
        steps += 1
        assert before == set(plan.decode), "a running sequence was left out of a step"
        assert plan.preempted == ()
        assert not plan.group or toy.ran[-1] > 0
        if before:
            longest = sum(toy.rows[seq] for seq in plan.group)
            smallest = SHAPE.linear(LEAST) + SHAPE.attention(LEAST, longest)
            assert toy.ran[-1] <= max(budget * ROW, smallest)
    assert set(toy.scheduler.running) == set(toy.rows), "everybody got in"


@given(rows=st.lists(st.integers(1, 300), min_size=1, max_size=10), huge=st.integers(500, 5000))
def test_who_waits_behind_a_huge_request_waits_for_that_one_alone(
    rows: list[int], huge: int
) -> None:
    """All that came meanwhile are the next group, however many, as far as its rows allow."""
    toy = Toy(pages=100_000, budget=400 * ROW)
    toy.add(1)
    toy.step()
    toy.add(huge)
    assert toy.step().group == (1,)
    toy.add(*rows)
    while (plan := toy.step()).group == (1,):
        pass
    assert plan.group == tuple(range(2, 2 + len(rows)))


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, step, end and are aborted at random; the books must always be right."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = Toy(pages=14 * LAYERS, max_num_seqs=4, budget=50 * ROW, light=20 * ROW)
        self.passed = False

    @rule(rows=st.integers(1, 60), layer=st.integers(0, LAYERS - 1), gone=st.integers(0, 40))
    def add(self, rows: int, layer: int, gone: int) -> None:
        self.toy.add_with_exit(rows, layer, gone)

    @rule(rows=st.integers(1, 60))
    def add_pictures(self, rows: int) -> None:
        self.toy.add_pictures(rows)

    @precondition(lambda self: len(self.toy.scheduler.waiting) < 12)
    @rule(count=st.integers(2, 8))
    def add_small_ones(self, count: int) -> None:
        self.toy.add(*[3] * count)

    @rule()
    def step(self) -> None:
        scheduler = self.toy.scheduler
        line = [work.seq for work in scheduler.waiting]
        in_flight = {work.seq for work in scheduler.group}
        plan = self.toy.step()
        assert not set(plan.decode) & {*plan.group, *plan.passing}
        self.check_order(line, in_flight, plan)
        self.check_passing(line, in_flight, plan)
        for seq in plan.decode:
            if self.toy.rows[seq] >= 100:
                self.toy.scheduler.remove(seq)

    def check_order(self, line: list[int], in_flight: set[int], plan: Plan) -> None:
        """Who comes first is first, whoever else would fit; who is youngest yields, and is next."""
        scheduler = self.toy.scheduler
        admitted = [seq for seq in plan.group if seq not in in_flight]
        heavy = [seq for seq in line if not self.is_light(seq)]
        assert admitted in (line[: len(admitted)], heavy[: len(admitted)])
        inside = len(plan.decode) + len(plan.passing) + len(in_flight | set(plan.group))
        assert inside <= scheduler.limits.max_num_seqs
        if plan.preempted:
            assert min(plan.preempted) > max(plan.decode, default=-1)
            waiting = [work.seq for work in scheduler.waiting]
            assert waiting == [*sorted(plan.preempted), *line]
        if admitted and plan.decode:
            room = len(plan.decode) * LAYERS
            assert scheduler.ledger.num_free >= room, "the newcomer would be sent back at once"

    def check_passing(self, line: list[int], in_flight: set[int], plan: Plan) -> None:
        """Light ones in their order, one step in two at most, and the first of the others can
        have what it needs."""
        lights = [seq for seq in line if self.is_light(seq)]
        heavy = [seq for seq in line if not self.is_light(seq)]
        assert list(plan.passing) == lights[: len(plan.passing)]
        assert not (self.passed and plan.passing)
        self.passed = bool(plan.passing)
        if plan.passing:
            assert plan.group == ()
            assert in_flight or heavy
            assert sum(self.toy.cost(seq) or 0 for seq in plan.passing) <= self.toy.light
        if plan.passing and heavy and line.index(heavy[0]) < line.index(plan.passing[-1]):
            ledger, rows = self.toy.scheduler.ledger, self.toy.rows[heavy[0]]
            inside = len(plan.decode) + len(plan.passing) + len(in_flight)
            needed = ledger.pages_for(rows + 1) + inside
            assert ledger.num_free >= needed * LAYERS
            assert inside < self.toy.scheduler.limits.max_num_seqs

    def is_light(self, seq: int) -> bool:
        cost = self.toy.cost(seq)
        return cost is not None and cost <= self.toy.light

    @precondition(lambda self: self.toy.rows)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.toy.scheduler.remove(data.draw(st.sampled_from(sorted(self.toy.rows))))

    @invariant()
    def everybody_is_in_one_place(self) -> None:
        scheduler = self.toy.scheduler
        waiting = [work.seq for work in scheduler.waiting]
        inside = [work.seq for work in scheduler.group] + scheduler.running
        assert scheduler.passing == []
        assert len(set(waiting + inside)) == len(waiting + inside)
        assert set(scheduler.ledger.sequences) == set(inside)

    @invariant()
    def running_rows_have_pages_and_no_page_more(self) -> None:
        """Not even the one that an exit has spared, in any layer."""
        for seq in self.toy.scheduler.running:
            for layer, rows in enumerate(self.toy.kv_rows(seq)):
                capacity = self.toy.scheduler.ledger.capacity(seq, layer)
                assert rows <= capacity <= (rows // PAGE + 1) * PAGE

    def teardown(self) -> None:
        """Whatever happened, the engine comes to an end."""
        for _ in range(3000):
            if not self.toy.scheduler.has_work:
                break
            self.step()
        assert not self.toy.scheduler.has_work
        assert self.toy.scheduler.ledger.usage == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(stateful_step_count=30)
