"""DART (arXiv 2502.11494): drop what is said already. Attention-free.

Pivots are the visual and text rows with the largest L1 norm of their keys; every pivot keeps the
visual rows that resemble it least, so that duplicates leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.exits.prune.rule import PruneRule, marked, single_stage
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions

PIVOTS = 4


@dataclass(frozen=True, slots=True)
class Dart(PruneRule):
    """After layer K - 1: pivots by key norm, then for each the least similar visual rows."""

    name: ClassVar[str] = "dart"

    @classmethod
    def of(cls, options: PruneOptions, num_layers: int) -> Dart:
        """``layer`` 2 and ``ratio`` 0.5 unless given."""
        return cls(single_stage(options, default_layer=2))

    def keep(self, view: LayerView, count: int) -> Tensor:
        """Visual pivots first, then an equal number for every pivot, in the pivots' order."""
        visual, hidden = view.visual, view.hidden.float()
        norms = view.cached()[0].float().abs().sum((0, 2))
        own = norms[visual].topk(min(PIVOTS, count)).indices
        question = view.question
        asked = question[norms[question].topk(min(PIVOTS, len(question))).indices]
        pivots = torch.cat([hidden[visual[own]], hidden[asked]])
        likeness = F.normalize(pivots, dim=-1) @ F.normalize(hidden[visual], dim=-1).T
        view.flops += 2 * likeness.numel() * hidden.shape[1]
        taken = torch.zeros(len(visual), dtype=torch.bool, device=visual.device)
        taken[own] = True
        left = count - len(own)
        for i, row in enumerate(likeness):
            share = left // (len(pivots) - i)
            least = row.masked_fill(taken, float("inf")).topk(share, largest=False).indices
            taken[least] = True
            left -= share
        return marked(taken, count)
