"""Hostile pictures and bodies get a 2xx or a 4xx, and nothing stays behind.

Some hundred of the cases that ``make fuzz`` runs by the ten thousand.
"""

from __future__ import annotations

import random

import pytest

from tests.conformance.fuzz import Outcome, attack, body_cases, picture_cases
from tests.conformance.mutations import mutated_body, mutated_file, pictures
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine

CASES = range(300)


def check(outcome: Outcome) -> None:
    assert not outcome.failures
    assert sum(outcome.statuses.values()) == len(CASES)
    assert outcome.statuses[200]
    assert outcome.statuses[400]


@pytest.mark.anyio
async def test_mutated_pictures_are_taken_or_refused(connect: Connect) -> None:
    async with connect() as client:
        check(await attack(client, picture_cases(), CASES, seed=1))


@pytest.mark.anyio
async def test_mutated_bodies_are_taken_or_refused(connect: Connect) -> None:
    async with connect() as client:
        paths = [CHAT, "/v1/completions", "/v1/responses"]
        check(await attack(client, body_cases(paths), CASES, seed=1))


@pytest.mark.anyio
async def test_a_reply_that_is_no_4xx_is_a_failure(connect: Connect) -> None:
    broken = FakeEngine(fail_after=(0, RuntimeError("ours")))
    async with connect(broken) as client:
        outcome = await attack(client, lambda _: (CHAT, b'{"model": "demo"}'), range(2), seed=0)
        assert not outcome.failures
        good = b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}]}'
        outcome = await attack(client, lambda _: (CHAT, good), range(2), seed=0)
    assert [line.split(":")[1] for line in outcome.failures] == [" 500", " 500"]


def test_a_case_is_made_again_by_its_seed() -> None:
    files, bodies = pictures(), [body("a", n=2), body("b", stop=["x"])]
    for number in range(50):
        one, other = random.Random(f"0/{number}"), random.Random(f"0/{number}")
        assert mutated_file(files, one) == mutated_file(files, other)
        assert mutated_body(bodies, one) == mutated_body(bodies, other)
