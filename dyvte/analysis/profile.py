"""Weights and entropies per layer of one prompt, gathered from the stream of attention rows.

With A the head-max-pooled attention, V the visual rows and T the text behind the image (METHOD,
"The analysis figures"; arXiv 2411.19628, section 3):

    W_visual = sum A[V, V] / |V|    W_cross = sum A[T, V] / |T|    W_text = sum A[T, T] / |T|

Entropies are those of a text row's weights on V and on T, each made to sum to one, averaged over
the text rows, in bits: log2 |V| is an even look at every patch, 0 a look at one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.analysis.regions import Regions
from dyvte.analysis.rows import AttentionRows


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of one prompt. Where no visual row is left, what needs one is None."""

    w_visual: float | None
    w_cross: float | None
    w_text: float
    cross_entropy: float | None
    text_entropy: float


@dataclass(slots=True)
class _Sums:
    visual: float = 0.0
    cross: float = 0.0
    text: float = 0.0
    cross_entropy: float = 0.0
    text_entropy: float = 0.0
    visual_rows: int = 0
    text_rows: int = 0

    def layer(self) -> Layer:
        v, t = self.visual_rows, max(1, self.text_rows)
        return Layer(
            w_visual=self.visual / v if v else None,
            w_cross=self.cross / t if v else None,
            w_text=self.text / t,
            cross_entropy=self.cross_entropy / t if v else None,
            text_entropy=self.text_entropy / t,
        )


class Profile:
    """A ``RowReader``: keeps seven sums a layer and nothing of the rows."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._sums: dict[int, _Sums] = {}

    def take(self, rows: AttentionRows) -> None:
        """Add a block to its layer's sums."""
        sums = self._sums.setdefault(rows.layer, _Sums())
        on_visual, on_text = self._regions.visual[rows.keys], self._regions.text[rows.keys]
        visual = rows.weights[self._regions.visual[rows.queries]]
        text = rows.weights[self._regions.text[rows.queries]]
        sums.visual_rows += visual.shape[0]
        sums.text_rows += text.shape[0]
        sums.visual += float(visual[:, on_visual].sum())
        sums.cross += float(text[:, on_visual].sum())
        sums.text += float(text[:, on_text].sum())
        sums.cross_entropy += float(entropy(text[:, on_visual]).sum())
        sums.text_entropy += float(entropy(text[:, on_text]).sum())

    def layers(self) -> list[Layer]:
        """All layers seen, in order."""
        return [self._sums[layer].layer() for layer in sorted(self._sums)]


def entropy(weights_Rn: Tensor) -> Tensor:
    """Bits ``[R]`` of each row made to sum to one; 0 for a row without weight (or keys)."""
    total = weights_Rn.sum(-1, keepdim=True)
    shares = weights_Rn / total.clamp(min=torch.finfo(weights_Rn.dtype).tiny)
    bits: Tensor = torch.special.entr(shares).sum(-1) / math.log(2)
    return bits
