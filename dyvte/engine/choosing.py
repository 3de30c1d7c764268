"""From the rows of a step to one token per sequence; a sequence without a choice fails alone.

What a request adds to its logits, and the grammar that it must keep, are its own sequence's;
the draw is made for all rows at once. All of it is enqueued before anything is read, and then
read once: whether a row's logits are fit to choose from, and how likely its token was where a
request asks for that, comes with what was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.engine.events import TokenLogprobs
from dyvte.engine.sequence import Sequence
from dyvte.errors import GrammarFailed
from dyvte.sampling import log_probs, pick, uniforms
from dyvte.transfer import Fetch, upload

log = logging.getLogger("dyvte.engine")

Rows = Seq[tuple[Sequence, Tensor]]
"""Sequences with the model's own logits ``[V]`` of their last row."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A ``token`` for ``sequence`` from the model's own ``logits [V]``, or why there is none.

    ``usable``: the highest of the logits is a finite number. ``logprobs`` are the token's, where
    its request asks for them and they were computed with those of the others.
    """

    sequence: Sequence
    logits: Tensor
    usable: bool
    token: int | Exception
    logprobs: TokenLogprobs | None = None


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
        self._asking = self._who_asks()
        try:
            likely = self._likely(tokens)
        except Exception:
            log.exception("log-probabilities failed; computing them one sequence at a time")
            self._asking, likely = {}, []
        self._fetch = Fetch(_usable([logits for _, logits in self._rows]), tokens, *likely)

    def read(self) -> list[Choice]:
        """One for each row. Waits for the device: the one read of a step that asks no gates."""
        usable, tokens, *likely = self._fetch.get()
        told = self._errors | dict(zip(self._drawn, tokens.tolist(), strict=True))
        likely_of = self._told(likely)
        return [
            Choice(
                sequence,
                logits,
                fine,
                _allowed(sequence, told[index]) if fine else told[index],
                likely_of.get(index),
            )
            for index, ((sequence, logits), fine) in enumerate(
                zip(self._rows, usable.tolist(), strict=True)
            )
        ]

    def _who_asks(self) -> dict[int, list[int]]:
        """Places of the rows that ask for log-probabilities, by how many; each count has its own
        order of ties."""
        asking: dict[int, list[int]] = {}
        for place, index in enumerate(self._drawn):
            count = self._rows[index][0].owner.sampling.logprobs
            if count is not None:
                asking.setdefault(count, []).append(place)
        return asking

    def _likely(self, tokens: Tensor) -> list[Tensor]:
        """Of each count: the tokens' own ``[n]``, the most likely ids and theirs ``[n, count]``."""
        found: list[Tensor] = []
        for count, places in self._asking.items():
            values = log_probs(torch.stack([self._rows[self._drawn[at]][1] for at in places]))
            chosen = tokens.index_select(0, upload(places, torch.int64, tokens.device))
            top = values.topk(count)
            found += [values.gather(1, chosen[:, None])[:, 0], top.indices, top.values]
        return found

    def _told(self, likely: Seq[Tensor]) -> dict[int, TokenLogprobs]:
        told: dict[int, TokenLogprobs] = {}
        numbers = iter(each.tolist() for each in likely)
        for places in self._asking.values():
            for at, own, ids, values in zip(
                places, next(numbers), next(numbers), next(numbers), strict=True
            ):
                top = tuple(zip(ids, values, strict=True))
                told[self._drawn[at]] = TokenLogprobs(own, top)
        return told

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
