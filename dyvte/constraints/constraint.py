"""The seam between the engine and a grammar: what one sequence may say next.

``Constraint`` belongs to one sequence and survives its preemption; ``Grammars`` makes them.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dyvte.structured import StructuredOutput


class Constraint(Protocol):
    """One sequence's place in its grammar. Used by the engine's thread alone."""

    def mask(self) -> Tensor:
        """Bool ``[V]`` on the CPU: the ids that may come next, end tokens included.

        Waits for what ``accept`` has started. The same until the next ``accept``; not to be
        changed by the caller. Raises GrammarFailed.
        """

    def accept(self, token: int) -> None:
        """A shown token was chosen. Starts the next mask beside the caller; never raises."""

    @property
    def finished(self) -> bool:
        """True if nothing may follow the tokens accepted so far but an end."""


class Grammars(Protocol):
    """Compiles grammars, and starts sequences in them. May be called from any thread."""

    def compile(self, wanted: StructuredOutput) -> None:
        """Blocking. Raises OptionError if ``wanted`` cannot be compiled for this vocabulary."""

    def begin(self, wanted: StructuredOutput) -> Constraint:
        """A new sequence's constraint, whose first mask is on its way. Does not block."""
