"""Requests that are given up while a group of them is between two rows of a layer."""

from __future__ import annotations

import pytest

import dyvte
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small


@pytest.mark.parametrize("decoding", [True, False])
def test_who_takes_the_last_rows_of_a_layer_along_holds_up_nobody(
    decoding: bool, tiny_model: dyvte.Model
) -> None:
    """The layer had run all rows but those of the one that left. Its group once stood still."""
    driver = Driver(tiny_model, small(400, max_step_rows=8))
    stream = driver.add("stream", tiny.prompt(3), GREEDY)
    driver.step()
    states = {
        name: driver.add(name, tiny.prompt(0, after=11), GREEDY) for name in ("stays", "goes")
    }
    for _ in range(40):
        driver.step()
        prefill = driver.core._stepper.prefill
        if prefill is not None and prefill.loop is not None:
            (_, first), (_, second) = prefill.loop.left
            if not first and second:
                break
    else:
        raise AssertionError("no step ended where the first one's rows do")
    driver.core.abort(states["goes"])
    if not decoding:
        driver.core.abort(stream)
    driver.run()
    expected = tiny.alone(tiny_model, tiny.prompt(0, after=11), sampling=GREEDY).token_ids
    assert driver.tokens("stays") == expected
    driver.check_empty()
