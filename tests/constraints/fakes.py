"""The one double of the grammar's seam: scripted masks, waits and failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.errors import GrammarFailed
from dyvte.structured import StructuredOutput
from tests import tiny


@dataclass
class FakeConstraint:
    """Allows ``script[i]`` as token i, then is finished; fails at token ``fails_at``."""

    script: Sequence[Sequence[int]]
    fails_at: int | None = None
    accepted: list[int] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.accepted) == len(self.script)

    def mask(self) -> Tensor:
        if self.fails_at == len(self.accepted):
            raise GrammarFailed("scripted")
        mask = torch.zeros(tiny.VOCAB, dtype=torch.bool)
        mask[list(self.script[len(self.accepted)])] = True
        return mask

    def accept(self, token: int) -> None:
        assert token in self.script[len(self.accepted)], "a token that was not allowed"
        self.accepted.append(token)


@dataclass
class FakeGrammars:
    """Every sequence gets what ``make`` makes; ``begun`` keeps them in order."""

    make: Callable[[], FakeConstraint]
    begun: list[FakeConstraint] = field(default_factory=list)

    def compile(self, wanted: StructuredOutput) -> None:
        pass

    def begin(self, wanted: StructuredOutput) -> FakeConstraint:
        self.begun.append(self.make())
        return self.begun[-1]
