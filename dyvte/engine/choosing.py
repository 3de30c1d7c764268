"""From the rows of a step to one token per sequence; a sequence without a choice fails alone.

What a request adds to its logits, and the grammar that it must keep, are its own sequence's;
the draw is made for all rows at once. All of it is enqueued before anything is read, and then
read once: whether a row's logits are fit to choose from comes with what was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.engine.sequence import Sequence
from dyvte.errors import GrammarFailed
from dyvte.sampling import pick, uniforms
from dyvte.transfer import Fetch

log = logging.getLogger("dyvte.engine")

Rows = Seq[tuple[Sequence, Tensor]]
"""Sequences with the model's own logits ``[V]`` of their last row."""


@dataclass(frozen=True, slots=True)
class Choice:
    """``token`` for ``sequence`` from the model's own ``logits [V]``, or the ``error`` instead.

    ``usable``: the highest of the logits is a finite number.
    """

    sequence: Sequence
    logits: Tensor
    usable: bool
    token: int | Exception


class Draft:
    """The choices of a step, on their way to the host."""

    def __init__(self, rows: Rows, eos: frozenset[int]) -> None:
        """Waits for masks that are on their way, and for nothing of the device."""
        self._rows = list(rows)
        scored: dict[int, Tensor] = {}
        self._errors: dict[int, Exception] = {}
        for index, (sequence, logits) in enumerate(self._rows):
            try:
                scored[index] = sequence.scores(logits, eos)
            except Exception as error:
                self._errors[index] = error
        tokens = self._draw(scored, eos)
        self._drawn = [index for index in scored if index not in self._errors]
        self._fetch = Fetch(_usable([logits for _, logits in self._rows]), tokens)

    def read(self) -> list[Choice]:
        """One for each row. Waits for the device: the one read of a step that asks no gates."""
        usable, tokens = self._fetch.get()
        told = self._errors | dict(zip(self._drawn, tokens.tolist(), strict=True))
        return [
            Choice(sequence, logits, fine, _allowed(sequence, told[index]) if fine else told[index])
            for index, ((sequence, logits), fine) in enumerate(
                zip(self._rows, usable.tolist(), strict=True)
            )
        ]

    def _draw(self, scored: dict[int, Tensor], eos: frozenset[int]) -> Tensor:
        """A token of each row with scores; of those that cannot be drawn ``_errors`` says why.

        Each generator is asked once, whatever fails.
        """
        sequences = [self._rows[index][0] for index in scored]
        scores = [*scored.values()]
        params = [each.owner.sampling for each in sequences]
        drawn = uniforms(params, [each.generator for each in sequences])
        forbidden = [() if each.constraint else each.forbidden(eos) for each in sequences]
        none = torch.empty(0, dtype=torch.int64)
        try:
            return pick(torch.stack(scores), params, drawn, forbidden) if scores else none
        except Exception:
            log.exception("sampling failed; sampling one sequence at a time")
        found: list[Tensor] = []
        for row, index in enumerate(scored):
            one = slice(row, row + 1)
            try:
                found.append(pick(scores[row][None], params[one], drawn[one], forbidden[one]))
            except Exception as error:
                self._errors[index] = error
        return torch.cat(found) if found else none


def _usable(logits: Seq[Tensor]) -> Tensor:
    """``[S]`` bool: a token can be chosen where the highest logit is a finite number."""
    try:
        best = torch.stack(list(logits)).amax(-1)
    except RuntimeError:  # no memory for all of them side by side
        best = torch.stack([each.amax() for each in logits])
    return best.isfinite()


def _allowed(sequence: Sequence, token: int | Exception) -> int | Exception:
    if isinstance(token, Exception) or sequence.may_choose(token):
        return token
    return GrammarFailed("the model refuses what its grammar wants")
