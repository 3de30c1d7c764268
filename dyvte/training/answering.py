"""Answers after a full prefill: the model's own greedy one, and what it thinks of a given one.

Both run on the prompt's cache without any exit.

Shapes: B prompts, A answer tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyvte.attention import SdpaAttention
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import Part, Segment, pack
from dyvte.training.prefill import Prefilled, run_layers

Answer = tuple[int, ...]


def answer_greedily(
    model: ModelAdapter,
    run: Prefilled,
    limit: int,
    given: Mapping[int, Answer],
    rows: Sequence[Sequence[Tensor]],
) -> dict[int, Answer]:
    """The greedy answer to each prompt, its end-of-sequence id included if it comes in time.

    At most ``limit`` tokens. ``given`` are answers whose ``rows`` have been run: one that the
    model would have given itself, token by token, is not generated again. The cache is as before
    when this returns.
    """
    known = {
        owner: answer
        for k, (owner, answer) in enumerate(given.items())
        if len(answer) <= limit
        and answer[-1] in model.eos_token_ids
        and _choices(model, torch.cat([run.last[owner][None], rows[-1][k]])) == list(answer)
    }
    answers: dict[int, list[int]] = {i: [] for i in range(len(run.layouts)) if i not in known}
    open_, last = list(answers), run.last[list(answers)]
    while open_:
        for index, token in zip(open_, _choices(model, last), strict=True):
            answers[index].append(token)
        open_ = [
            index
            for index in open_
            if len(answers[index]) < limit and answers[index][-1] not in model.eos_token_ids
        ]
        if open_:
            # Rows so far are in the cache, so that each step adds the newest token alone.
            newest = {index: answers[index][-1:] for index in open_}
            behind = [len(answers[index]) - 1 for index in open_]
            last = torch.cat(_extend(model, run, newest, behind)[-1])
    _rewind(run)
    return {i: known[i] if i in known else tuple(answers[i]) for i in range(len(run.layouts))}


def answer_rows(
    model: ModelAdapter, run: Prefilled, answers: Mapping[int, Answer]
) -> list[list[Tensor]]:
    """Per layer, rows ``[A_k - 1, d]`` of each answer but its last token, which predicts nothing.

    ``answers`` has one answer to each of some prompts. The cache is as before when this returns.
    """
    empty = run.last[:0]
    layers: list[list[Tensor]] = [[empty] * len(answers) for _ in range(model.decoder.num_layers)]
    given = {owner: answer[:-1] for owner, answer in answers.items() if len(answer) > 1}
    if given:
        places = [k for k, answer in enumerate(answers.values()) if len(answer) > 1]
        for layer, rows in zip(layers, _extend(model, run, given, [0] * len(given)), strict=True):
            for place, each in zip(places, rows, strict=True):
                layer[place] = each
        _rewind(run)
    return layers


def _choices(model: ModelAdapter, hidden: Tensor) -> list[int]:
    chosen: list[int] = model.head(hidden).float().argmax(-1).tolist()
    return chosen


def _extend(
    model: ModelAdapter,
    run: Prefilled,
    tokens: Mapping[int, Sequence[int]],
    behind: Sequence[int],
) -> list[list[Tensor]]:
    """Run more tokens of some prompts; per layer, the rows of each.

    ``behind`` says how many rows of the answer are in the cache already.
    """
    parts = []
    lengths = [len(each) for each in tokens.values()]
    flat = torch.tensor([t for each in tokens.values() for t in each], device=run.last.device)
    embedded = model.embed_tokens(flat).split(lengths)
    for (owner, each), rows, already in zip(tokens.items(), embedded, behind, strict=True):
        layout = run.layouts[owner]
        start = layout.rows + already
        positions = model.positions(layout, start, start + len(each))
        parts.append(Part(Segment(owner, len(each)), rows, positions))
    batch = pack(parts)
    return [
        list(after.hidden.split(lengths))
        for _, after in run_layers(model, batch, run.cache, SdpaAttention())
    ]


def _rewind(run: Prefilled) -> None:
    for index, layout in enumerate(run.layouts):
        depth = len(run.cache.lengths(index))
        run.cache.rewind({index: [layout.rows] * depth})
