"""A sequence's place in a compiled grammar, with the next mask computed by a worker thread.

llguidance lets the interpreter go while it computes, so that a mask is made while the model's
next forward runs; the engine's thread waits for it only when it samples.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from dyvte.errors import GrammarFailed

TOO_COMPLEX = "the grammar became too complex to follow"
BUDGETS = ("too many", "too complex", "max is", "limit", "fuel")  # the library's words
DEAD_END = "no token of this model continues the answer as its grammar demands"


class MatcherConstraint:
    """Implements ``dyvte.constraints.constraint.Constraint``.

    ``open_matcher`` runs in a worker; it may compile.
    """

    def __init__(
        self, open_matcher: Callable[[], LLMatcher], vocab_size: int, workers: Executor
    ) -> None:
        self._vocab_size = vocab_size
        self._workers = workers
        self._matcher: LLMatcher | None = None
        self._finished = False
        self._next: Future[Tensor] = workers.submit(self._open, open_matcher)

    @property
    def finished(self) -> bool:
        """True if nothing may follow but an end."""
        return self._finished

    def mask(self) -> Tensor:
        """Bool ``[V]``. Raises GrammarFailed."""
        try:
            return self._next.result()
        except GrammarFailed:
            raise
        except Exception as error:
            raise GrammarFailed(TOO_COMPLEX) from error

    def accept(self, token: int) -> None:
        """Consume a token (microseconds) and start the next mask."""
        if self._next.exception() is not None or self._matcher is None:
            return  # this mask has failed; so will the next
        if self._matcher.consume_token(token) and self._matcher.is_stopped():
            self._finished = True
        else:
            self._next = self._workers.submit(self._compute)

    def _open(self, open_matcher: Callable[[], LLMatcher]) -> Tensor:
        self._matcher = open_matcher()
        return self._compute()

    def _compute(self) -> Tensor:
        assert self._matcher is not None, "computed after it was opened"
        return next_mask(self._matcher, self._vocab_size)


def next_mask(matcher: LLMatcher, vocab_size: int) -> Tensor:
    """Bool ``[V]``: what ``matcher`` allows now. Raises GrammarFailed if it cannot go on."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        reason = matcher.get_error().lower()
        raise GrammarFailed(TOO_COMPLEX if any(w in reason for w in BUDGETS) else DEAD_END)
    allowed = np.unpackbits(bits, count=vocab_size, bitorder="little").view(np.bool_)
    if not allowed.any():
        raise GrammarFailed(DEAD_END)
    return torch.from_numpy(allowed)
