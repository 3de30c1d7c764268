"""PyramidDrop (arXiv 2410.17247): in stages, by what the last token is about to attend to.

Ranked with the query of the last instruction token and the keys of the layer that comes, head
mean. Its code gives the rows that stay new positions; here they keep theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyvte.exits.prune.rule import Ranking, several_stages
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions


@dataclass(frozen=True, slots=True)
class PyramidDrop(Ranking):
    """Before a quarter, half and three quarters of the layers, half of the visual rows leave."""

    name: ClassVar[str] = "pyramiddrop"
    first_layer: ClassVar[int] = 0

    @classmethod
    def of(cls, options: PruneOptions, num_layers: int) -> PyramidDrop:
        """Stages L/4, L/2 and 3L/4 at 0.5 each unless given."""
        quarters = {num_layers * i // 4: 0.5 for i in (1, 2, 3)}  # two layers have but two
        return cls(several_stages(options, tuple(quarters.items())))

    def score(self, view: LayerView) -> Tensor:
        """Attention of the last row in the next layer, mean over heads."""
        return view.next_attention()[:, 0].mean(0)[view.visual]
