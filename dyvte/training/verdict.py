"""How well a gate decides, on samples that it has never seen.

Sources: area under the ROC curve as the Mann-Whitney statistic; expected calibration error over
ten bins of equal width (Guo et al. 2017).

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer's gate at the paper's rule, P(exit) > 0.5.

    ``exit_share``: share of samples whose label is exit. ``exit_accuracy`` and ``keep_accuracy``:
    share of those (of the others) that the gate decides rightly; None where there are none.
    ``auc`` None where there is one class only. ``ece``: mean distance of P(exit) from the share
    of exits. ``loss``: mean cross-entropy in nats; ``base_loss``: that of the share alone.
    """

    layer: int
    samples: int
    exit_share: float
    accuracy: float
    exit_accuracy: float | None
    keep_accuracy: float | None
    auc: float | None
    ece: float
    loss: float
    base_loss: float


def judge(layer: int, margin_N: Tensor, label_N: Tensor) -> LayerReport:
    """``margin`` is logit_exit − logit_keep (float), ``label`` bool."""
    margin, label = margin_N.double(), label_N.bool()
    right = (margin > 0) == label
    share = float(label.double().mean())
    truth = label.double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(margin, truth)
    base = torch.special.entr(torch.tensor([share, 1.0 - share], dtype=torch.float64)).sum()
    return LayerReport(
        layer=layer,
        samples=len(label),
        exit_share=share,
        accuracy=float(right.double().mean()),
        exit_accuracy=_mean(right[label]),
        keep_accuracy=_mean(right[~label]),
        auc=area(margin, label),
        ece=calibration_error(margin.sigmoid(), label),
        loss=float(loss),
        base_loss=float(base),
    )


def area(score_N: Tensor, label_N: Tensor) -> float | None:
    """Chance that an exit scores higher than a keep, ties half; None with one class only."""
    exits, keeps = int(label_N.sum()), int((~label_N).sum())
    if not exits or not keeps:
        return None
    _, place, count = score_N.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2.0)[place]
    return float((rank[label_N].sum() - exits * (exits + 1) / 2) / (exits * keeps))


def calibration_error(chance_N: Tensor, label_N: Tensor) -> float:
    """Σ over bins of (share of samples) · |mean chance − share of exits|."""
    bins = (chance_N * BINS).long().clamp(0, BINS - 1)
    total = 0.0
    for index in range(BINS):
        inside = bins == index
        if inside.any():
            gap = chance_N[inside].mean() - label_N[inside].double().mean()
            total += float(inside.double().mean() * gap.abs())
    return total


def as_table(reports: Sequence[LayerReport]) -> str:
    """Markdown, one line a layer."""
    head = ("layer", "exits", "accuracy", "exit acc.", "keep acc.", "AUC", "ECE", "loss", "base")
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    for each in reports:
        shares = (each.exit_share, each.accuracy, each.exit_accuracy, each.keep_accuracy)
        cells = [
            str(each.layer),
            *("–" if share is None else f"{share:.1%}" for share in shares),
            *("–" if x is None else f"{x:.3f}" for x in (each.auc, each.ece)),
            *(f"{x:.3f}" for x in (each.loss, each.base_loss)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(right: Tensor) -> float | None:
    return float(right.double().mean()) if len(right) else None
