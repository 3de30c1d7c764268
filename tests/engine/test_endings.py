"""Why an answer ends, and what of it is shown."""

from __future__ import annotations

import pytest

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.engine.events import TokenEvent
from dyvte.params import FinishReason
from tests import tiny
from tests.engine.driver import Driver
from tests.fakes import tamper

PROMPT = tiny.prompt(0)
OFF = ExitOptions(policy="off")


@pytest.fixture
def scripted(tiny_model: dyvte.Model) -> tuple[Driver, list[int]]:
    """A model that says exactly the ids of a list, and an engine around it."""
    model, adapter = tamper(tiny_model)
    script: list[int] = []
    said = iter(script)
    adapter.on_head = lambda logits: logits.fill_(0).index_fill_(
        1, logits.new_tensor([next(said)]).long(), 9.0
    )
    return Driver(model), script


def spell(text: str) -> list[int]:
    ids: list[int] = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


def say(
    scripted: tuple[Driver, list[int]], ids: list[int], **params: object
) -> tuple[list[int], FinishReason | None, list[TokenEvent]]:
    driver, script = scripted
    script += ids
    asked = SamplingParams(temperature=0, **params)  # type: ignore[arg-type]
    driver.add("r", PROMPT, asked, OFF)
    driver.run()
    driver.check_empty()
    return driver.tokens("r"), driver.reason("r"), driver.events["r"]


def test_the_end_token_ends_and_is_not_shown(scripted: tuple[Driver, list[int]]) -> None:
    tokens, reason, events = say(scripted, [*spell("hi"), tiny.EOS])
    assert tokens == spell("hi")
    assert reason is FinishReason.STOP
    assert [event.token_id for event in events] == [*spell("hi"), None]


def test_max_tokens_counts_shown_tokens(scripted: tuple[Driver, list[int]]) -> None:
    tokens, reason, events = say(scripted, spell("hello"), max_tokens=3)
    assert tokens == spell("hel")
    assert reason is FinishReason.LENGTH
    assert [event.finish_reason for event in events] == [None, None, FinishReason.LENGTH]


def test_ignore_eos_goes_on_and_shows_it(scripted: tuple[Driver, list[int]]) -> None:
    ids = [*spell("a"), tiny.EOS, *spell("b")]
    assert say(scripted, ids, ignore_eos=True, max_tokens=3)[0] == ids


def test_a_stop_token_ends_and_is_not_shown(scripted: tuple[Driver, list[int]]) -> None:
    tokens, reason, _ = say(
        scripted, spell("ab!c"), stop_token_ids=tuple(spell("!")), ignore_eos=True
    )
    assert tokens == spell("ab")
    assert reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("one two three", ("two",), "one two"),
        ("one two three", ("x", "o t", "e"), "one"),
        ("aab", ("ab",), "aab"),
        ("né!", ("é",), "né"),
    ],
)
def test_a_stop_string_ends_with_its_last_token(
    text: str, stop: tuple[str, ...], shown: str, scripted: tuple[Driver, list[int]]
) -> None:
    tokens, reason, _ = say(scripted, spell(text), stop=stop)
    assert tokens == spell(shown)
    assert reason is FinishReason.STOP


def test_a_stop_string_inside_the_first_min_tokens_does_not_count(
    scripted: tuple[Driver, list[int]],
) -> None:
    """It was remembered, and ended the answer one token later."""
    tokens, _, _ = say(scripted, spell("a.bc.d"), stop=(".",), min_tokens=3)
    assert tokens == spell("a.bc.")


def test_before_min_tokens_no_end_is_chosen(tiny_model: dyvte.Model) -> None:
    model, adapter = tamper(tiny_model)
    stop = 50
    adapter.on_head = lambda logits: logits.index_fill(
        1, logits.new_tensor([tiny.EOS, stop]).long(), 99.0
    )
    driver = Driver(model)
    params = SamplingParams(temperature=0, min_tokens=4, stop_token_ids=(stop,))
    driver.add("r", PROMPT, params, OFF)
    driver.run()
    assert len(driver.tokens("r")) == 4
    assert not {tiny.EOS, stop} & set(driver.tokens("r"))
    assert driver.reason("r") is FinishReason.STOP


def test_logprobs_are_of_the_token_and_of_the_best(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model)
    params = SamplingParams(
        temperature=0, max_tokens=3, logprobs=2, return_logits=True, ignore_eos=True
    )
    state = driver.add("r", PROMPT, params, OFF)
    driver.run()
    for event, logits in zip(driver.events["r"], state.choices[0].logits, strict=True):
        assert event.logprobs is not None
        expected = logits.log_softmax(-1).topk(2)
        assert [token for token, _ in event.logprobs.top] == expected.indices.tolist()
        assert event.logprobs.logprob == pytest.approx(float(expected.values[0]), abs=1e-5)
        assert event.token_id == event.logprobs.top[0][0]


def test_finishing_from_outside_is_a_regular_end(tiny_model: dyvte.Model) -> None:
    driver = Driver(tiny_model)
    params = SamplingParams(max_tokens=20, n=2, seed=1, ignore_eos=True)
    state = driver.add("r", PROMPT, params, OFF)
    assert driver.core.finish_choice(state, 0) == []  # nothing was said yet: no text to see
    driver.step()
    [emission] = driver.core.finish_choice(state, 0)
    assert emission.event == TokenEvent(0, None, finish_reason=FinishReason.STOP)
    assert driver.core.finish_choice(state, 0) == []
    driver.run()
    assert driver.reason("r", 1) is FinishReason.LENGTH
    assert len(driver.tokens("r", 1)) == 20
    driver.check_empty()
