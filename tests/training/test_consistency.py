"""Self-consistency says what it claims: greedy generation with a forced exit gives the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

import dyvte
from dyvte.demo.dataset import samples
from dyvte.exits.signals import SIGNALS
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from dyvte.training.collect import Collected, Example, Plan, collect
from tests import tiny

MAX_TOKENS = 2
SAMPLING = SamplingParams(max_tokens=MAX_TOKENS, temperature=0)
PLAN = Plan(paper=False, consistent=True, max_tokens=MAX_TOKENS)


def check(
    model: dyvte.Model, prompts: Sequence[Prompt], batch: int, layers: Sequence[int]
) -> list[Collected]:
    """Labels of some layers against generation; returns what was collected."""
    found = list(collect(model.adapter, map(Example, prompts), PLAN, batch))
    free = dyvte.generate(model, prompts, SAMPLING, ExitOptions(policy="off"))
    eos = model.adapter.eos_token_ids
    for each, result in zip(found, free, strict=True):
        ended = result.finish_reason == "stop"
        assert [t for t in each.greedy if t not in eos] == [
            t for t in result.token_ids if t not in eos
        ]
        assert (each.greedy[-1] in eos) == ended
    for layer in layers:
        left = dyvte.generate(
            model, prompts, SAMPLING, ExitOptions(policy="fixed", exit_layer=layer)
        )
        for each, result, whole in zip(found, left, free, strict=True):
            assert each.own is not None
            same = (result.token_ids, result.finish_reason) == (
                whole.token_ids,
                whole.finish_reason,
            )
            assert bool(each.own.consistent[layer]) == same
    return found


def test_a_label_is_what_generation_with_a_forced_exit_does(tiny_model: dyvte.Model) -> None:
    prompts = [
        tiny.prompt(seed, images=1 + seed % 2, before=seed % 3, after=seed % 4)
        for seed in range(12)
    ]
    found = check(tiny_model, prompts, batch=5, layers=range(tiny.LAYERS))
    labels = torch.stack([each.own.consistent for each in found if each.own is not None])
    assert labels[:, -1].all()
    assert 0.02 < float(labels[:, :-1].float().mean()) < 0.95


def test_the_demo_models_labels_are_what_generation_does() -> None:
    model = dyvte.load("demo", device="cpu", dtype="float32")
    prompts = []
    for image, question, _, _ in samples(4, "test"):
        parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        prompts.append(model.prompt([{"role": "user", "content": parts}]))
    check(model, prompts, batch=4, layers=(3, 5, 11))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_company_changes_nothing(tiny_model: dyvte.Model, batch: int) -> None:
    examples = [
        Example(tiny.prompt(seed, after=2 + seed), tuple(tiny.prompt(seed + 50).token_ids[:2]))
        for seed in range(7)
    ]
    plan = Plan(consistent=True, max_tokens=4)
    alone = list(collect(tiny_model.adapter, examples, plan, 1))
    together = list(collect(tiny_model.adapter, examples, plan, batch))
    for one, other in zip(alone, together, strict=True):
        assert one.greedy == other.greedy
        torch.testing.assert_close(one.status, other.status, atol=1e-5, rtol=1e-5)
        assert one.given is not None
        assert other.given is not None
        torch.testing.assert_close(one.given.kl, other.given.kl, atol=1e-5, rtol=1e-4)
        assert torch.equal(one.given.paper, other.given.paper)


def test_some_layers_are_those_of_all(tiny_model: dyvte.Model) -> None:
    prompts = [Example(tiny.prompt(seed)) for seed in range(3)]
    every = list(collect(tiny_model.adapter, prompts, PLAN))
    plan = Plan(paper=False, consistent=True, layers=(1, 3), max_tokens=MAX_TOKENS)
    for few, all_ in zip(collect(tiny_model.adapter, prompts, plan), every, strict=True):
        torch.testing.assert_close(few.status, all_.status[[1, 3]])
        torch.testing.assert_close(few.first.kl, all_.first.kl[[1, 3]])


def test_a_given_answer_that_is_the_models_own_is_scored_once(tiny_model: dyvte.Model) -> None:
    """This one answers with its end within the limit; the same answer given is not generated."""
    asked = tiny.prompt(36)
    limit = 40
    alone = Plan(paper=False, consistent=True, max_tokens=limit)
    (free,) = collect(tiny_model.adapter, [Example(asked)], alone)
    assert free.greedy[-1] == tiny.EOS
    plan = Plan(consistent=True, max_tokens=limit)
    (both,) = collect(tiny_model.adapter, [Example(asked, free.greedy)], plan)
    assert both.given is both.own


def test_signals_read_together_are_those_read_alone(tiny_model: dyvte.Model) -> None:
    prompts = [Example(tiny.prompt(seed, images=1 + seed % 2)) for seed in range(3)]

    def read(*names: str) -> torch.Tensor:
        plan = Plan(paper=False, consistent=True, signals=names, max_tokens=1)
        return torch.stack([each.signals for each in collect(tiny_model.adapter, prompts, plan)])

    together = read(*SIGNALS)
    assert together.shape == (3, tiny.LAYERS, len(SIGNALS))
    for column, name in enumerate(SIGNALS):
        assert torch.equal(together[..., column : column + 1], read(name))
