"""Answers after a full prefill: the model's own greedy one, and what it thinks of a given one.

Both run on the prompt's cache without any exit.

Shapes: B prompts, A answer tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyvte.attention import SdpaAttention
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import Segment, pack
from dyvte.training.prefill import Prefilled, run_layers


def answer_greedily(model: ModelAdapter, run: Prefilled, limit: int) -> list[list[int]]:
    """The greedy answer to each prompt, its end-of-sequence id included if it comes in time.

    At most ``limit`` tokens. The cache is as before when this returns.
    """
    answers: list[list[int]] = [[] for _ in run.layouts]
    open_ = list(range(len(answers)))
    last = run.last
    while True:
        tokens = model.head(last).float().argmax(-1).tolist()
        for index, token in zip(open_, tokens, strict=True):
            answers[index].append(token)
        open_ = [
            index
            for index in open_
            if len(answers[index]) < limit and answers[index][-1] not in model.eos_token_ids
        ]
        if not open_:
            break
        # Rows so far are in the cache, so that each step adds the newest token alone.
        last = torch.cat(_extend(model, run, open_, [answers[i][-1:] for i in open_], answers)[-1])
    _rewind(run)
    return answers


def answer_rows(
    model: ModelAdapter, run: Prefilled, owners: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[list[Tensor]]:
    """Per layer, rows ``[A_k - 1, d]`` of each answer but its last token, which predicts nothing.

    ``owners[k]`` is the prompt that answer k belongs to; a prompt has one answer here. The cache
    is as before when this returns.
    """
    given = [list(answer)[:-1] for answer in answers]
    busy = [index for index, tokens in enumerate(given) if tokens]
    found = [run.last.new_empty(0, run.last.shape[-1]) for _ in given]
    layers = [list(found) for _ in range(model.decoder.num_layers)]
    if busy:
        steps = _extend(model, run, [owners[i] for i in busy], [given[i] for i in busy])
        for layer, rows in zip(layers, steps, strict=True):
            for index, each in zip(busy, rows, strict=True):
                layer[index] = each
        _rewind(run)
    return layers


def _extend(
    model: ModelAdapter,
    run: Prefilled,
    owners: Sequence[int],
    tokens: Sequence[Sequence[int]],
    so_far: Sequence[Sequence[int]] | None = None,
) -> list[list[Tensor]]:
    """Run more tokens of some prompts; per layer, the rows of each."""
    parts = []
    flat = torch.tensor([t for each in tokens for t in each], device=run.last.device)
    embedded = model.embed_tokens(flat).split([len(each) for each in tokens])
    for owner, each, rows in zip(owners, tokens, embedded, strict=True):
        layout = run.layouts[owner]
        start = layout.rows + (len(so_far[owner]) - len(each) if so_far else 0)
        positions = model.positions(layout, start, start + len(each))
        parts.append((Segment(owner, len(each)), rows, positions))
    batch = pack(parts)
    return [
        list(after.hidden.split(batch.lengths))
        for _, after in run_layers(model, batch, run.cache, SdpaAttention())
    ]


def _rewind(run: Prefilled) -> None:
    for index, layout in enumerate(run.layouts):
        depth = len(run.cache.lengths(index))
        run.cache.rewind({index: [layout.rows] * depth})
