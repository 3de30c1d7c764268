"""From the logits of an answer, with the image and without it, to labels.

Paper's label (arXiv 2411.19628 and its code), teacher-forced on the given answer: 1 iff leaving
after layer e keeps the argmax on more than 99 % of the answer tokens and
``CE_exit < 1.03 · CE_full``. Self-consistency, on the model's own greedy answer: True iff the
argmax stays the same at every position, its end included, which is to say that greedy generation
with an exit after e gives the same answer (each token given that those before it are the same).

Shapes: L collected layers, A answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

AGREEMENT = 0.99
LOSS_RATIO = 1.03
# Rows of logits held at a time: 130 MB at 32,000 words.
HEAD_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Scores:
    """How an answer fares without the image, per layer ``[L]``.

    ``agreement``: share of positions with the same argmax. ``loss_exit`` (and ``loss_full``):
    mean cross-entropy, nats a token. ``kl``: KL(full ‖ exit) at the first position.
    """

    agreement: Tensor
    loss_full: Tensor
    loss_exit: Tensor
    kl: Tensor

    @property
    def paper(self) -> Tensor:
        """``[L]`` bool: the paper's label."""
        return (self.agreement > AGREEMENT) & (self.loss_exit < LOSS_RATIO * self.loss_full)

    @property
    def consistent(self) -> Tensor:
        """``[L]`` bool: the argmax is the same everywhere."""
        return self.agreement == 1.0


def score(
    head: Callable[[Tensor], Tensor], full_Ad: Tensor, exits_LAd: Tensor, answer: Sequence[int]
) -> Scores:
    """Compare the rows that predict ``answer`` in the full run and in every branch."""
    target = torch.tensor(list(answer), device=full_Ad.device)
    full = head(full_Ad).float()
    chosen, first = full.argmax(-1), full[0].log_softmax(-1)
    agreement, loss, kl = [], [], []
    for part in exits_LAd.split(max(1, HEAD_ROWS // len(target))):
        logits = head(part.flatten(0, 1)).float().unflatten(0, part.shape[:2])
        agreement.append((logits.argmax(-1) == chosen).float().mean(-1))
        wide = target.expand(len(part), -1)
        loss.append(F.cross_entropy(logits.transpose(1, 2), wide, reduction="none").mean(-1))
        left = logits[:, 0].log_softmax(-1)
        kl.append((first.exp() * (first - left)).sum(-1).clamp(min=0.0))
    loss_full = F.cross_entropy(full, target)
    return Scores(torch.cat(agreement), loss_full, torch.cat(loss), torch.cat(kl))
