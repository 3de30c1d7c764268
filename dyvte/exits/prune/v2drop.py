"""V²Drop (arXiv 2509.01552): lazy visual tokens leave, in stages. Attention-free.

A token whose hidden state hardly changed in the layer before has nothing more to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyvte.exits.prune.rule import Ranking, several_stages
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions

# Published for 32 layers; other depths take the same fractions.
PUBLISHED = ((3, 0.5), (17, 0.5), (22, 0.0))
PUBLISHED_LAYERS = 32


@dataclass(frozen=True, slots=True)
class V2Drop(Ranking):
    """Keep the visual rows that moved most (L2) in the layer before."""

    name: ClassVar[str] = "v2drop"

    @classmethod
    def of(cls, options: PruneOptions, num_layers: int) -> V2Drop:
        """Half, half and all that is left before 3/32, 17/32 and 22/32 of the depth."""
        scaled = {max(1, round(at * num_layers / PUBLISHED_LAYERS)): s for at, s in PUBLISHED}
        return cls(several_stages(options, tuple(scaled.items())))

    def score(self, view: LayerView) -> Tensor:
        """L2 distance between a row after and before the layer."""
        return view.change(view.visual)
