"""Statuses, labels and signals of a frozen model, for every layer in one pass a sample.

A batch of prompts runs whole once; the model's own answers and the given ones follow on its
cache; then the text rows of every layer go on without the image, all together (``branches``). So
a sample costs one full prefill, its answer, and a few text-only prefills. The status excludes the
answer.

Shapes: L collected layers, d hidden size, F signals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from dyvte.models.adapter import ModelAdapter
from dyvte.prompt import Prompt
from dyvte.training.answering import Answer, answer_greedily, answer_rows
from dyvte.training.branches import Twig, run_branches
from dyvte.training.labels import Scores, score
from dyvte.training.prefill import Prefilled, prefill, prefix_rows, tail_rows


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with at least one image, and the answer that it is forced to give, if any."""

    prompt: Prompt
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to collect: the paper's labels on given answers, the model's own on its greedy ones.

    ``layers`` ascending (None: all); ``signals`` by name; greedy answers end after
    ``max_tokens``.
    """

    paper: bool = True
    consistent: bool = False
    layers: tuple[int, ...] | None = None
    signals: tuple[str, ...] = ()
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Collected:
    """One sample: ``status [L, 2d]``, ``signals [L, F]``, and scores on its answers ``[L]``.

    ``own`` is about the greedy answer ``greedy``, ``given`` about the given one; each is None
    where it was not asked for. ``text_rows``, ``visual_rows`` and ``vision_flops`` are those of
    the prompt.
    """

    status: Tensor
    signals: Tensor
    text_rows: int
    visual_rows: int
    vision_flops: int
    given: Scores | None
    own: Scores | None
    greedy: Answer
    answer_tokens: int

    @property
    def first(self) -> Scores:
        """Scores whose first position (it does not depend on the answer) gives ``kl``."""
        found = self.own or self.given
        assert found is not None, "a plan has at least one kind of label"
        return found


def collect(
    model: ModelAdapter, examples: Iterable[Example], plan: Plan | None = None, batch: int = 8
) -> Iterator[Collected]:
    """Yield one ``Collected`` per example, in order; ``batch`` examples share a packed run.

    Raises PromptError for a prompt that the model cannot take.
    """
    stream = iter(examples)
    while several := list(islice(stream, batch)):
        yield from collect_batch(model, several, plan or Plan())


@torch.inference_mode()
def collect_batch(model: ModelAdapter, examples: Sequence[Example], plan: Plan) -> list[Collected]:
    """Statuses, signals and labels of some examples. Raises PromptError."""
    depth = model.decoder.num_layers
    layers = plan.layers or tuple(range(depth))
    layouts = [model.layout(example.prompt) for example in examples]
    longest = max([plan.max_tokens, *(len(each.answer or ()) for each in examples)])
    run = prefill(model, layouts, _encoded(model, examples), layers, plan.signals, longest)
    wanted = {
        index: example.answer
        for index, example in enumerate(examples)
        if plan.paper and example.answer is not None
    }
    rows = answer_rows(model, run, wanted)
    given = _score(model, run, layers, wanted, rows)
    own, greedy = given, wanted
    if plan.consistent:
        greedy = answer_greedily(model, run, plan.max_tokens, wanted, rows)
        other = {i: answer for i, answer in greedy.items() if wanted.get(i) != answer}
        own = given | _score(model, run, layers, other, answer_rows(model, run, other))
    return [
        Collected(
            status=torch.stack([each[index] for each in run.statuses]),
            signals=torch.stack([each[index] for each in run.signals]),
            text_rows=layout.rows - layout.visual_rows,
            visual_rows=layout.visual_rows,
            vision_flops=layout.vision_flops,
            given=given.get(index),
            own=own[index] if plan.consistent else None,
            greedy=greedy[index] if plan.consistent else (),
            answer_tokens=len(greedy[index]),
        )
        for index, layout in enumerate(layouts)
    ]


def _encoded(model: ModelAdapter, examples: Sequence[Example]) -> list[list[Tensor]]:
    """Rows of each image of each prompt."""
    pictured = [example.prompt.images for example in examples if example.prompt.images is not None]
    encoded = iter(model.encode_images(pictured))
    return [next(encoded) if each.prompt.images is not None else [] for each in examples]


def _score(
    model: ModelAdapter,
    run: Prefilled,
    layers: Sequence[int],
    answers: Mapping[int, Answer],
    rows: Sequence[Sequence[Tensor]],
) -> dict[int, Scores]:
    """Scores of one answer to each of some prompts; ``rows`` are those of ``answer_rows``."""
    if not answers:
        return {}
    starts = [
        torch.cat([x for k, i in enumerate(answers) for x in (tails[i], rows[layer][k])])
        for layer, tails in zip(layers, run.tails, strict=True)
    ]
    twigs = [_twig(model, run, owner, len(answer) - 1) for owner, answer in answers.items()]
    left = run_branches(model, run.cache, twigs, layers, starts)
    scores, stop = {}, 0
    for k, (owner, answer) in enumerate(answers.items()):
        stop += twigs[k].rows
        full = torch.cat([run.last[owner][None], rows[-1][k]])
        scores[owner] = score(model.head, full, left[:, stop - len(answer) : stop], answer)
    return scores


def _twig(model: ModelAdapter, run: Prefilled, owner: int, more: int) -> Twig:
    layout = run.layouts[owner]
    kept = [*tail_rows(layout), *range(layout.rows, layout.rows + more)]
    positions = model.positions(layout, 0, layout.rows + more)
    index = torch.tensor(kept, device=positions.device)
    added = run.deepstack[owner]
    if added is not None:
        added = torch.cat([added, added.new_zeros(more, *added.shape[1:])])
    return Twig(owner, prefix_rows(layout), len(kept), positions.index_select(-1, index), added)
