"""Light prompts pass the others, in integers alone: when, in which order, and at whose cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvte.engine.plan import Plan, Work
from tests.engine.toy import LAYERS, ROW, Toy

LIGHT = 20


def beside_pictures(light: int = LIGHT, **limits: int) -> Toy:
    """One that decodes (0), and a group with pictures in flight (1)."""
    toy = Toy(budget=30 * ROW, light=light * ROW, **limits)
    toy.add(2)
    toy.step()
    toy.add_pictures(300)
    assert toy.step().group == (1,)
    return toy


def test_light_ones_pass_a_group_in_flight_which_rests_meanwhile() -> None:
    toy = beside_pictures()
    toy.add(7)
    assert toy.step() == Plan(passing=(2,), decode=(0,))
    assert toy.step() == Plan(group=(1,), bounded=True, decode=(0, 2))


def test_several_pass_together_up_to_a_step_s_work_and_no_two_steps_in_a_row() -> None:
    toy = beside_pictures()
    toy.add(8, 8, 8, 4, 4)
    assert [toy.step().passing for _ in range(5)] == [(2, 3), (), (4, 5, 6), (), ()]


def test_a_lighter_one_does_not_pass_a_light_one() -> None:
    toy = beside_pictures()
    toy.add(15, 10, 2)
    assert [toy.step().passing for _ in range(3)] == [(2,), (), (3, 4)]


def test_who_has_images_to_be_encoded_or_too_many_rows_passes_nobody() -> None:
    toy = beside_pictures()
    toy.add_pictures(1)
    toy.add(LIGHT + 1)
    assert toy.step().group == (1,)
    assert toy.step().group == (1,)


def test_light_ones_behind_others_that_wait_go_first_once() -> None:
    """Those that come meanwhile do not keep the others from being the next group."""
    toy = Toy(light=LIGHT * ROW)
    toy.add_pictures(50)
    toy.add(5, 6)
    assert toy.step() == Plan(passing=(1, 2))
    toy.add(5)
    assert toy.step() == Plan(group=(0,), bounded=True, decode=(1, 2))


def test_light_ones_for_whom_a_step_was_too_short_do_not_join_the_others() -> None:
    """In their group they would wait for its end."""
    toy = Toy(budget=30 * ROW, light=LIGHT * ROW)
    toy.add(15, 15)
    toy.add_pictures(50)
    assert [toy.step() for _ in range(3)] == [
        Plan(passing=(0,)),
        Plan(group=(2,), bounded=True, decode=(0,)),
        Plan(passing=(1,), decode=(0,)),
    ]


def test_light_ones_alone_are_a_group_like_any() -> None:
    toy = Toy(light=LIGHT * ROW)
    toy.add(15, 15, 15)
    assert toy.step() == Plan(group=(0, 1, 2))


@pytest.mark.parametrize("pages", range(9, 15))
def test_a_light_one_takes_no_page_that_the_first_of_the_others_needs(pages: int) -> None:
    """Of 8 rows each: one decodes in one page, 23 rows are in flight, 24 wait for four pages."""
    toy = Toy(pages=pages * LAYERS, budget=30 * ROW, light=LIGHT * ROW)
    toy.add(2)
    toy.step()
    toy.add_pictures(23)
    assert toy.step().group == (1,)
    toy.add_pictures(24)
    toy.add(2)
    running, in_flight, waits, light = 1 + 1, 3 + 1, 4, 1 + 1
    assert bool(toy.step().passing) is (pages >= running + in_flight + waits + light)


@pytest.mark.parametrize("seats", range(5, 8))
def test_a_light_one_takes_no_seat_that_the_first_of_the_others_needs(seats: int) -> None:
    """One decodes, two choices are in prefill, two wait."""
    toy = Toy(budget=30 * ROW, light=LIGHT * ROW, max_num_seqs=seats)
    toy.add(2)
    toy.step()
    for seq in (1, 2):
        toy.rows[seq] = 100
        toy.pictures.add(seq)
        toy.scheduler.add(Work(seq, 100, copies=2))
        toy.step()
    toy.add(2)
    assert bool(toy.step().passing) is (seats >= 1 + 2 + 2 + 1)


def test_nobody_passes_one_that_waits_for_room() -> None:
    """Though there would be room for them: they could take it again and again."""
    toy = Toy(pages=5 * LAYERS, light=LIGHT * ROW)
    toy.add(8)
    toy.step()
    toy.add_pictures(30)
    toy.add(3)
    assert [toy.step() for _ in range(3)] == [Plan(decode=(0,))] * 3
    toy.scheduler.remove(0)
    assert toy.step() == Plan(group=(1,))


def test_a_light_one_that_fits_an_empty_pool_just_so_gets_in() -> None:
    toy = Toy(pages=2 * LAYERS, light=LIGHT * ROW)
    toy.add(15)
    toy.add_pictures(15)
    assert toy.step() == Plan(group=(0,))


def test_one_of_each_prefix_passes_in_a_step() -> None:
    """Whoever takes a prefix first may leave less of it to the next."""
    toy = beside_pictures()
    for seq, prefix in ((2, "a"), (3, "b"), (4, "a"), (5, None)):
        toy.rows[seq] = 3
        toy.scheduler.add(Work(seq, 3, prefix=prefix, patient=False))
    assert [toy.step().passing for _ in range(3)] == [(2, 3), (), (4, 5)]


def test_who_would_lose_its_prefix_by_being_admitted_stays_where_it_was() -> None:
    """What is kept is given up for its pages: then it is not light any more, and takes none."""
    toy = Toy(pages=12 * LAYERS, budget=30 * ROW, light=LIGHT * ROW)
    toy.add(2)
    toy.step()
    toy.scheduler.ledger.reserve(-1, 56)
    toy.scheduler.ledger.keep(-1)
    toy.scheduler.cost = lambda seq: 5 if -1 in toy.scheduler.ledger.sequences else None
    toy.add(40)
    toy.scheduler.group = [Work(9, 1)]
    plan = toy.scheduler.plan(toy.kv_rows, LIGHT)
    assert plan.passing == ()
    assert plan.group == (9,)
    assert [work.seq for work in toy.scheduler.waiting] == [1]
    assert toy.scheduler.ledger.sequences == [0]


def test_a_group_is_not_rested_in_a_step_that_sends_somebody_back() -> None:
    toy = Toy(pages=6 * LAYERS, budget=30 * ROW, light=LIGHT * ROW)
    toy.add(8, 8)
    toy.step()
    toy.add_pictures(8)
    plans = []
    for _ in range(40):
        toy.add(1)
        plans.append(toy.step())
    assert any(plan.preempted for plan in plans)
    assert not any(plan.preempted and plan.passing for plan in plans)


@settings(max_examples=15)
@given(rows=st.lists(st.integers(1, LIGHT), min_size=1, max_size=4), huge=st.integers(1, 500))
def test_a_flood_of_light_ones_slows_the_others_down_by_half_at_most(
    rows: list[int], huge: int
) -> None:
    quiet, flood = (Toy(pages=100_000, budget=30 * ROW, light=LIGHT * ROW) for _ in range(2))
    steps = []
    for toy in (quiet, flood):
        toy.scheduler.limits = replace(toy.scheduler.limits, max_num_seqs=100_000)
        toy.add(2)
        toy.step()
        toy.add_pictures(huge)
        count = 0
        while 1 not in toy.scheduler.running:
            if toy is flood:
                toy.add(*rows)
            toy.step()
            count += 1
        steps.append(count)
    assert steps[1] <= 2 * steps[0]
