"""Sequences that must keep a grammar, among others that need not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import dyvte
from dyvte import SamplingParams, StructuredOutput
from dyvte.errors import GrammarFailed
from dyvte.params import FinishReason
from dyvte.prompt import IMAGE, Prompt
from tests import tiny
from tests.constraints.fakes import FakeConstraint, FakeGrammars
from tests.engine.driver import GREEDY, Driver, small
from tests.fakes import TamperedAdapter

FORM = StructuredOutput.regex("a+")
ASKED = SamplingParams(max_tokens=8, temperature=0, structured_output=FORM)
SCRIPT = ([10, 20, 30], [40, 50], [60, 70, 80], [90])


def driver(
    model: dyvte.Model, script: object = SCRIPT, fails_at: int | None = None, pages: int = 400
) -> Driver:
    made = Driver(model, small(pages))
    made.core.grammars = FakeGrammars(lambda: FakeConstraint(script, fails_at))  # type: ignore[arg-type]
    return made


def alone(model: dyvte.Model, seed: int, sampling: SamplingParams) -> list[int]:
    run = driver(model)
    run.add("it", tiny.prompt(seed), sampling)
    run.run()
    return run.tokens("it")


def test_each_token_is_one_that_the_grammar_allows(tiny_model: dyvte.Model) -> None:
    run = driver(tiny_model)
    run.add("it", tiny.prompt(1), ASKED)
    run.run()
    tokens = run.tokens("it")
    assert len(tokens) == len(SCRIPT)
    assert all(token in step for token, step in zip(tokens, SCRIPT, strict=True))
    assert run.reason("it") is FinishReason.STOP  # without an end token: nothing could follow


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_changes_no_token(tiny_model: dyvte.Model, temperature: float) -> None:
    asked = replace(ASKED, temperature=temperature, seed=7)
    run = driver(tiny_model)
    run.add("free", tiny.prompt(0), GREEDY)
    run.add("a", tiny.prompt(1), asked)
    run.step()
    run.add("b", tiny.prompt(2, images=0), asked)
    run.add("late", tiny.prompt(3), GREEDY)
    run.run()
    assert run.tokens("a") == alone(tiny_model, 1, asked)
    assert run.tokens("free") == tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY).token_ids
    assert run.tokens("late") == tiny.alone(tiny_model, tiny.prompt(3), sampling=GREEDY).token_ids


def test_every_choice_has_its_own_place(tiny_model: dyvte.Model) -> None:
    run = driver(tiny_model)
    run.add("it", tiny.prompt(1), replace(ASKED, n=3, temperature=1.5, seed=3))
    run.run()
    grammars = run.core.grammars
    assert isinstance(grammars, FakeGrammars)
    for index, constraint in enumerate(grammars.begun):
        assert constraint.accepted == run.tokens("it", index)


def test_a_recomputed_sequence_keeps_its_place(tiny_model: dyvte.Model) -> None:
    run = driver(tiny_model)
    state = run.add("it", tiny.prompt(1), ASKED)
    run.step()
    run.step()
    seq = state.choices[0].seq
    run.core.scheduler.running.remove(seq)
    run.core.scheduler.ledger.release(seq)
    run.core._preempt(seq)
    run.run()
    assert run.tokens("it") == alone(tiny_model, 1, ASKED)


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_grammar_that_dies_ends_its_request_alone(tiny_model: dyvte.Model, fails_at: int) -> None:
    run = driver(tiny_model, fails_at=fails_at)
    run.add("free", tiny.prompt(0), GREEDY)
    run.add("it", tiny.prompt(1), replace(ASKED, n=2))
    run.run()
    (error,) = run.errors["it"]
    assert isinstance(error, GrammarFailed)
    assert error.request_id == "it"
    assert run.tokens("free") == tiny.alone(tiny_model, tiny.prompt(0), sampling=GREEDY).token_ids
    assert run.ledger.num_free == run.ledger.num_pages


def test_an_end_waits_for_min_tokens_unless_nothing_else_is_allowed(
    tiny_model: dyvte.Model,
) -> None:
    asked = replace(ASKED, min_tokens=2, logit_bias={tiny.EOS: 100})
    early = [[10, tiny.EOS], [20, tiny.EOS], [30, tiny.EOS]]
    for script, count in ((early, 2), ([[10], [tiny.EOS]], 1)):
        run = driver(tiny_model, script)
        run.add("it", tiny.prompt(1), asked)
        run.run()
        assert len(run.tokens("it")) == count
        assert run.reason("it") is FinishReason.STOP


def test_log_probabilities_are_the_models_own(tiny_model: dyvte.Model) -> None:
    run = driver(tiny_model, [[10], [20]])
    run.add("it", tiny.prompt(1), replace(ASKED, logprobs=1))
    run.run()
    told = [event.logprobs for event in run.events["it"]]
    assert all(each is not None and each.top[0][1] > each.logprob for each in told)


def test_a_grammar_that_the_model_refuses_fails_alone(tiny_model: dyvte.Model) -> None:
    deaf = TamperedAdapter(tiny_model.adapter)
    deaf.on_head = lambda logits: logits.index_fill(-1, torch.tensor([10]), float("-inf"))
    run = driver(replace(tiny_model, adapter=deaf), [[10], [20]])
    run.add("it", tiny.prompt(1), ASKED)
    run.run()
    assert isinstance(run.errors["it"][0], GrammarFailed)


def test_the_real_grammar_holds_through_the_library(tiny_model: dyvte.Model) -> None:
    wanted = StructuredOutput.regex("[xyz]{3}-[0-9]{2}")
    asked = SamplingParams(temperature=0, structured_output=wanted)
    prompts = [Prompt([1, IMAGE, 9, 11], tiny.prompt(5).images), tiny.prompt(6, images=0)]
    texts = [each.text for each in dyvte.generate(tiny_model, prompts, [asked, GREEDY])]
    assert texts[0][3] == "-"
    assert len(texts[0]) == 6
    assert texts[0] == tiny.alone(tiny_model, prompts[0], sampling=asked).text
