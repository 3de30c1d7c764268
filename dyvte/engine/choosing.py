"""From the rows of a step to one token per sequence; a sequence without a choice fails alone.

What a request adds to its logits, and the grammar that it must keep, are its own sequence's;
the draw is made for all rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.engine.sequence import Sequence
from dyvte.errors import GrammarFailed
from dyvte.sampling import sample


@dataclass(slots=True)
class Choices:
    """``chosen``: sequence, token and the model's own logits ``[V]``; ``failed`` have none."""

    chosen: list[tuple[Sequence, int, Tensor]] = field(default_factory=list)
    failed: list[tuple[Sequence, Exception]] = field(default_factory=list)


def choose(rows: Seq[tuple[Sequence, Tensor]], eos: frozenset[int]) -> Choices:
    """One token per sequence from its logits ``[V]``. Waits for masks that are on their way."""
    made = Choices()
    scored: list[tuple[Sequence, Tensor, Tensor]] = []
    for sequence, logits in rows:
        try:
            scored.append((sequence, logits, sequence.scores(logits, eos)))
        except Exception as error:
            made.failed.append((sequence, error))
    if not scored:
        return made
    sequences = [each for each, _, _ in scored]
    tokens = sample(
        torch.stack([scores for _, _, scores in scored]),
        [each.owner.sampling for each in sequences],
        [each.generator for each in sequences],
        [() if each.constraint else each.forbidden(eos) for each in sequences],
    ).tolist()
    for (sequence, logits, _), token in zip(scored, tokens, strict=True):
        if sequence.may_choose(token):
            made.chosen.append((sequence, token, logits))
        else:
            made.failed.append(
                (sequence, GrammarFailed("the model refuses what its grammar wants"))
            )
    return made
