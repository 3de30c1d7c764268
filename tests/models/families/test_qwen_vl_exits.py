"""Exits, pruning, training and analysis over rows with three positions and deepstack.

The reference is the family's own class, with masks where rows are gone.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import dyvte
from dyvte import ExitOptions, PruneOptions, SamplingParams
from dyvte.analysis.rows import AttentionRows, WatchedAttention
from dyvte.attention import SdpaAttention
from dyvte.prompt import IMAGE
from dyvte.training.collect import Collected, Example, Plan, collect
from tests import tiny
from tests.models.families.family import CONVERSATIONS, Made
from tests.models.families.qwen_vl import FAMILIES, GRIDS, PAD, native_inputs, prompt
from tests.training.test_consistency import check

TOLERANCE = 2e-4
OFF = ExitOptions(policy="off")


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


FASTV = PruneOptions(method="fastv", layer=1, ratio=0.6)


@pytest.mark.parametrize("name", GRIDS)
def test_fastv_is_the_class_with_the_others_masked(name: str, made: Made) -> None:
    """What stays is what the full matrix of the layer before says, and only that is seen after.

    Before layer 1 deepstack still has two levels to add: to the rows that stay.
    """
    asked, sampling = prompt(3, GRIDS[name]), SamplingParams(max_tokens=1, return_logits=True)
    [result] = dyvte.generate(made.model, asked, sampling, ExitOptions(policy="off", prune=FASTV))
    [(layer, rows)] = result.kept_visual
    given = native_inputs(asked)
    with torch.inference_mode():
        seen = made.reference(**given, output_attentions=True).attentions[0][0].mean(0)[-1]
    visual = (given["input_ids"][0] == PAD).nonzero()[:, 0]
    assert layer == 1
    assert list(rows) == seen[visual].topk(len(rows)).indices.sort().values.tolist()
    gone = given["input_ids"][0] == PAD
    gone[visual[list(rows)]] = False
    assert result.logits is not None
    torch.testing.assert_close(
        result.logits, made.logits(given, exit_layer=0, leaving=gone), atol=TOLERANCE, rtol=0
    )


def test_pruning_before_an_exit_in_a_mixed_batch_is_each_alone(made: Made) -> None:
    grids = [*GRIDS.values(), []]
    prompts = [prompt(seed, each) for seed, each in enumerate(grids)]
    wishes = [
        ExitOptions(policy="fixed", exit_layer=2, prune=FASTV),
        ExitOptions(policy="gate", aggressiveness=0.5, prune=FASTV),
        ExitOptions(policy="off", prune=PruneOptions(method="divprune")),
        ExitOptions(policy="fixed", exit_layer=1, prune=PruneOptions(method="pyramiddrop")),
        OFF,
    ]
    sampling = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
    together = dyvte.generate(made.model, prompts, sampling, wishes)
    for each, asked, exits in zip(together, prompts, wishes, strict=True):
        [alone] = dyvte.generate(made.model, asked, sampling, exits)
        assert each.token_ids == alone.token_ids
        assert each.kept_visual == alone.kept_visual
        assert each.kv_tokens_per_layer == alone.kv_tokens_per_layer


def test_labels_are_what_generation_with_forced_exits_does(made: Made) -> None:
    """A last row that is visual stays, and keeps getting its deepstack."""
    asked = [
        prompt(1, [(1, 4, 6)]),
        prompt(2, [(1, 2, 8), (1, 6, 4)]),
        prompt(3, [(1, 4, 4)], after=0),
        prompt(4, [(1, 2, 2)], before=0, after=0),
    ]
    check(made.model, asked, batch=3, layers=range(tiny.LAYERS))


def test_losses_of_a_given_answer_are_the_masked_classes(made: Made) -> None:
    answers = {"one image": (40, 50, 60), "two images": (70, 80)}
    examples = [
        Example(made.model.prompt(CONVERSATIONS[name]), answer) for name, answer in answers.items()
    ]
    found: list[Collected] = list(collect(made.model.adapter, examples, Plan(), batch=2))
    for each, (name, answer) in zip(found, answers.items(), strict=True):
        given, target = made.inputs(CONVERSATIONS[name]), torch.tensor(answer)
        full = made.logits(given, answer[:-1])
        assert each.given is not None
        torch.testing.assert_close(
            each.given.loss_full, F.cross_entropy(full, target), atol=TOLERANCE, rtol=0
        )
        for layer in range(tiny.LAYERS):
            left = made.logits(given, answer[:-1], exit_layer=layer)
            same = (left.argmax(-1) == full.argmax(-1)).float().mean()
            loss = F.cross_entropy(left, target)
            torch.testing.assert_close(each.given.loss_exit[layer], loss, atol=TOLERANCE, rtol=0)
            assert float(each.given.agreement[layer]) == float(same)


@pytest.mark.parametrize("name", ["three", "frames"])
def test_analysis_knows_the_rows_that_stay(name: str, made: Made) -> None:
    """Divprune leaves before the first layer is seen, the exit takes the rest after the second."""
    asked, seen = prompt(5, GRIDS[name]), {}
    layout = made.model.adapter.layout(asked)

    class Places:
        def take(self, rows: AttentionRows) -> None:
            seen[rows.layer] = rows.keys.tolist()

    watching = WatchedAttention(SdpaAttention(), [Places()], positions=layout.positions)
    prune = PruneOptions(method="divprune")
    exits = ExitOptions(policy="fixed", exit_layer=1, prune=prune)
    [result] = dyvte.generate(
        made.model, asked, SamplingParams(max_tokens=1), exits, attention=watching
    )
    [(_, kept)] = result.kept_visual
    visual = [row for row, token in enumerate(layout.token_ids) if token == IMAGE]
    text = sorted({*range(layout.rows)} - {*visual})
    stays = sorted({*text, *(visual[row] for row in kept)})
    assert seen == {0: stays, 1: stays, 2: text, 3: text}
