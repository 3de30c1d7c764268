"""DivPrune (arXiv 2503.02175): the most diverse visual tokens stay, before the first layer.

Max-min diversity, solved greedily on cosine distance between the projected image rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.errors import OptionError
from dyvte.exits.prune.rule import PruneRule, marked, single_stage
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions


@dataclass(frozen=True, slots=True)
class DivPrune(PruneRule):
    """Start with the row farthest from its nearest neighbour, add the farthest from all chosen."""

    name: ClassVar[str] = "divprune"
    first_layer: ClassVar[int] = 0

    @classmethod
    def of(cls, options: PruneOptions, num_layers: int) -> DivPrune:
        """``ratio`` 0.5 unless given; it acts on the projected rows, so ``layer`` is 0."""
        if options.layer not in (None, 0):
            raise OptionError("prune.layer", 'is 0 with "divprune": it acts on projected rows')
        return cls(single_stage(options, default_layer=0))

    def keep(self, view: LayerView, count: int) -> Tensor:
        """Greedy max-min; the choice stays on the device."""
        rows = F.normalize(view.hidden[view.visual].float(), dim=-1)
        distance = 1.0 - rows @ rows.T
        view.flops += 2 * len(rows) ** 2 * rows.shape[1]
        taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        nearest = distance.clone().fill_diagonal_(float("inf")).amin(0)
        for i in range(count):
            best = nearest.masked_fill(taken, -1.0).argmax()[None]  # an index of [1] is not read
            from_best = distance.index_select(0, best)[0]
            nearest = torch.minimum(nearest, from_best) if i else from_best
            taken.index_fill_(0, best, True)
        return marked(taken, count)
