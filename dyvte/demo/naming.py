"""Teaching the vision tower to name what each patch shows.

Owns the labels of a patch (colour, shape, size and place of the object under it, or the printed
text) and the loss. Names are scored against the language model's own word embeddings, so that a
visual row that shows a red circle comes to lie near the words "red" and "circle": a question can
then find it by likeness, and an answer can copy it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dyvte.demo.palette import COLORS
from dyvte.demo.render import PRINT_ID
from dyvte.demo.shapes import SHAPES
from dyvte.demo.world import SIZES, WORDS, Scene

ROWS = ("top", "center", "bottom")
COLUMNS = ("left", "center", "right")
FACTORS: tuple[tuple[str, ...], ...] = (COLORS, SHAPES, tuple(SIZES), ROWS, COLUMNS)
# Printed text has no single word token per value: word, tens, units with heads of their own.
TEXT_CLASSES = (len(WORDS), 10, 10)
# Shapes are the slowest to learn; rare text would drown them with its large, noisy gradients.
WEIGHTS = (1.0, 4.0, 0.7, 0.5, 0.5, 0.3, 0.3, 0.3)
_LABELS = len(FACTORS) + len(TEXT_CLASSES)
_FIRST_TEXT = len(FACTORS)


def _place(x: float, y: float) -> tuple[int, int]:
    return min(2, int(y * 3)), min(2, int(x * 3))


def labels_of(scene: Scene) -> NDArray[np.int64]:
    """[PRINT_ID + 1, labels] per owner id: 0 means 'nothing', k + 1 the k-th name."""
    table = np.zeros((PRINT_ID + 1, _LABELS), dtype=np.int64)
    for i, thing in enumerate(scene.things):
        names = (thing.color, thing.shape, thing.size)
        for factor, name in enumerate(names):
            table[i + 1, factor] = FACTORS[factor].index(name) + 1
        table[i + 1, 3:5] = np.add(_place(thing.x, thing.y), 1)
    if (item := scene.printed) is not None:
        row = table[PRINT_ID]
        row[0] = COLORS.index(item.color) + 1
        if item.is_number:
            row[_FIRST_TEXT + 1 :] = [int(digit) + 1 for digit in item.text.zfill(2)]
        else:
            row[_FIRST_TEXT] = WORDS.index(item.text) + 1
    return table


class Naming(nn.Module):
    """Loss of naming patches; `ids` are the word tokens of `FACTORS`, in that order."""

    def __init__(self, width: int, ids: list[list[int]]) -> None:
        super().__init__()
        self.ids = [torch.tensor(row) for row in ids]
        self.nothing = nn.Parameter(torch.randn(len(FACTORS), width) / width**0.5)
        self.scales = nn.Parameter(torch.ones(len(FACTORS)))
        self.heads = nn.ModuleList(nn.Linear(width, n + 1) for n in TEXT_CLASSES)

    def logits(self, rows_NW: Tensor, words_VW: Tensor) -> list[Tensor]:
        """Scores per factor; class 0 is 'nothing'."""
        rows = F.rms_norm(rows_NW, rows_NW.shape[-1:])
        scores = []
        for factor, ids in enumerate(self.ids):
            names = torch.cat([self.nothing[factor : factor + 1], words_VW[ids]])
            scores.append(self.scales[factor] * rows @ names.T)
        return scores + [head(rows) for head in self.heads]

    def forward(
        self, rows_NW: Tensor, words_VW: Tensor, labels_NL: Tensor, shares_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean loss, and accuracy per label on the patches where it is not 'nothing' (-1: none).

        `shares_N` weighs the patches of objects (see `Figures.shares`).
        """
        losses, hits = [], []
        seen = (labels_NL[:, 0] > 0).float() * shares_N
        weight = (0.15 + seen) / (0.15 + seen).sum()
        for i, score in enumerate(self.logits(rows_NW, words_VW)):
            target = labels_NL[:, i]
            loss = (F.cross_entropy(score, target, reduction="none") * weight).sum()
            losses.append(WEIGHTS[i] * loss)
            some = target > 0
            right = (score.detach().argmax(1) == target) & some
            hits.append(right.sum() / some.sum() if some.any() else torch.tensor(-1.0))
        return torch.stack(losses).sum(), torch.stack(hits)
