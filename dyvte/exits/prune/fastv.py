"""FastV (arXiv 2403.06764): the last token's attention in the layer before ranks visual tokens.

Its code masks or removes after layer K - 1 by the head mean of that row; only that one query row
is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyvte.exits.prune.rule import Ranking, single_stage
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions


@dataclass(frozen=True, slots=True)
class FastV(Ranking):
    """Before ``layer`` (K), keep the rows that the last one attended to most in layer K - 1."""

    name: ClassVar[str] = "fastv"
    reads_queries: ClassVar[bool] = True

    @classmethod
    def of(cls, options: PruneOptions, num_layers: int) -> FastV:
        """``layer`` 2 and ``ratio`` 0.5 unless given."""
        return cls(single_stage(options, default_layer=2))

    def score(self, view: LayerView) -> Tensor:
        """Attention of the last row, mean over heads."""
        return view.attention()[:, 0].mean(0)[view.visual]
