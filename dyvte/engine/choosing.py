"""From the rows of a step to one token per sequence; a sequence without a choice fails alone.

What a request adds to its logits, and the grammar that it must keep, are its own sequence's;
the draw is made for all rows at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.engine.sequence import Sequence
from dyvte.errors import GrammarFailed
from dyvte.sampling import pick, uniforms

log = logging.getLogger("dyvte.engine")


@dataclass(slots=True)
class Choices:
    """``chosen``: sequence, token and the model's own logits ``[V]``; ``failed`` have none."""

    chosen: list[tuple[Sequence, int, Tensor]] = field(default_factory=list)
    failed: list[tuple[Sequence, Exception]] = field(default_factory=list)


def usable(logits: Seq[Tensor]) -> list[bool]:
    """True where a token can be chosen: the highest logit of ``[V]`` is a finite number."""
    if not logits:
        return []
    try:
        best = torch.stack(list(logits)).amax(-1)
    except RuntimeError:  # no memory for all of them side by side
        best = torch.stack([each.amax() for each in logits])
    finite: list[bool] = best.isfinite().tolist()
    return finite


def choose(rows: Seq[tuple[Sequence, Tensor]], eos: frozenset[int]) -> Choices:
    """One token per sequence from its logits ``[V]``. Waits for masks that are on their way."""
    made = Choices()
    scored: list[tuple[Sequence, Tensor, Tensor]] = []
    for sequence, logits in rows:
        try:
            scored.append((sequence, logits, sequence.scores(logits, eos)))
        except Exception as error:
            made.failed.append((sequence, error))
    for (sequence, logits, _), token in zip(scored, _draw(scored, eos), strict=True):
        if isinstance(token, Exception):
            made.failed.append((sequence, token))
        elif sequence.may_choose(token):
            made.chosen.append((sequence, token, logits))
        else:
            made.failed.append(
                (sequence, GrammarFailed("the model refuses what its grammar wants"))
            )
    return made


def _draw(
    scored: Seq[tuple[Sequence, Tensor, Tensor]], eos: frozenset[int]
) -> list[int | Exception]:
    """A token for each row, or why there is none. Each generator is asked once, whatever fails."""
    sequences = [each for each, _, _ in scored]
    scores = [row for _, _, row in scored]
    params = [each.owner.sampling for each in sequences]
    drawn = uniforms(params, [each.generator for each in sequences])
    forbidden = [() if each.constraint else each.forbidden(eos) for each in sequences]
    try:
        if scored:
            return [*pick(torch.stack(scores), params, drawn, forbidden).tolist()]
    except Exception:
        log.exception("sampling failed; sampling one sequence at a time")
    found: list[int | Exception] = []
    for row in range(len(scored)):
        one = slice(row, row + 1)
        try:
            found += pick(scores[row][None], params[one], drawn[one], forbidden[one]).tolist()
        except Exception as error:
            found.append(error)
    return found
