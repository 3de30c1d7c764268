"""Fit gates on what was collected; no language model is needed here.

Per layer: cross-entropy on statuses scaled to unit size per feature (the scale is folded into the
weights afterwards, so that the gate reads raw statuses as the paper's does), Xavier
initialisation, cosine schedule with warm-up (arXiv 2411.19628), early stop. Rare classes may
weigh more while learning; slope and offset then make P(exit) a frequency again (``offset``).

Shapes: N samples, L layers, d hidden size, I inner width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.errors import OptionError
from dyvte.exits.gate import INNER, GateBank
from dyvte.training.offset import fit_offset
from dyvte.training.split import Split, split
from dyvte.training.verdict import LayerReport, judge

COMPACT = 64
"""Inner width of a compact gate: 1/32 of the paper's parameters (docs/decisions/0006)."""

FEWEST = 8
"""Exits in training and choosing samples below which a layer gets no gate."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How gates are fitted. ``inner`` is the gate's width: 2048 in the paper.

    ``patience``: epochs without a better loss on the choosing half of ``held_out`` before a layer
    stops. ``balance``: how far rare classes are weighed up, 0 not at all, 1 to equal weight.
    """

    inner: int = INNER
    lr: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 60
    batch: int = 128
    warmup: float = 0.03
    held_out: float = 0.2
    patience: int = 8
    balance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("inner", "epochs", "batch", "patience"):
            if getattr(self, name) < 1:
                raise OptionError(name, f"must be at least 1, not {getattr(self, name)}")
        if not 0.0 < self.held_out < 1.0:
            raise OptionError("held_out", f"must lie between 0 and 1, not {self.held_out}")
        if not 0.0 < self.lr < math.inf:
            raise OptionError("lr", f"must be above 0, not {self.lr}")


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted gates, how they did on samples kept aside, and layers that got none."""

    gates: GateBank
    layers: tuple[LayerReport, ...]
    without: tuple[int, ...]


def fit(
    status_of: Callable[[int], Tensor],
    label_NL: Tensor,
    groups_N: Tensor,
    layers: Sequence[int],
    config: FitConfig | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Fit:
    """One gate per layer of ``layers`` (columns of ``label``), from ``status_of(layer) [N, 2d]``.

    A layer where hardly anything may exit gets no gate. Raises OptionError for too few samples,
    or where no layer gets one.
    """
    settings = config or FitConfig()
    parts = split(groups_N, settings.held_out, settings.seed)
    w1, w2, bias, reports, without = {}, {}, {}, [], []
    for column, layer in enumerate(layers):
        label = label_NL[:, column].bool()
        if int(label[parts.train].sum() + label[parts.choose].sum()) < FEWEST:
            without.append(layer)
        else:
            status = status_of(layer).float()
            w1[layer], w2[layer], bias[layer] = _fit_layer(status, label, parts, settings, layer)
            logits = GateBank(w1, w2, bias).logits(layer, status[parts.judge])
            reports.append(judge(layer, logits[:, 1] - logits[:, 0], label[parts.judge]))
        progress(column + 1)
    if not w1:
        raise OptionError("data", f"no layer has {FEWEST} samples that may exit: no gate is made")
    return Fit(GateBank(w1, w2, bias), tuple(reports), tuple(without))


def _fit_layer(
    status: Tensor, label: Tensor, parts: Split, config: FitConfig, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``w1``, ``w2`` and ``bias`` of one gate."""
    rng = torch.Generator().manual_seed(config.seed * 1_000_003 + layer)
    scale = status[parts.train].square().mean(0).sqrt()
    scale = scale.clamp(min=1e-6 * float(scale.max().clamp(min=1e-12)))
    train, choose = status[parts.train] / scale, status[parts.choose] / scale
    truth, chosen = label[parts.train].long(), label[parts.choose].long()
    weight = _weights(truth, config.balance)
    w1, w2 = _xavier(config.inner, status.shape[1], rng), _xavier(2, config.inner, rng)
    optimiser = torch.optim.AdamW([w1, w2], lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(len(train) / config.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _cosine(steps, config.warmup))
    best, kept, stale = math.inf, (w1.detach().clone(), w2.detach().clone()), 0
    for _ in range(config.epochs):
        for some in torch.randperm(len(train), generator=rng).split(config.batch):
            optimiser.zero_grad()
            _loss(w1, w2, train[some], truth[some], weight).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            loss = float(_loss(w1, w2, choose, chosen, weight))
        if loss < best:
            best, kept, stale = loss, (w1.detach().clone(), w2.detach().clone()), 0
        else:
            stale += 1
            if stale == config.patience:
                break
    logits = F.linear(F.gelu(F.linear(choose, kept[0])), kept[1])
    slope, offset = fit_offset(logits[:, 1] - logits[:, 0], chosen)
    return kept[0] / scale, kept[1] * slope, torch.tensor([-offset / 2, offset / 2])


def _xavier(out: int, into: int, rng: torch.Generator) -> Tensor:
    bound = math.sqrt(6.0 / (out + into))
    return ((torch.rand(out, into, generator=rng) * 2 - 1) * bound).requires_grad_()


def _weights(truth: Tensor, balance: float) -> Tensor:
    """Weight of keep and exit ``[2]``, mean 1 over the samples."""
    share = truth.bincount(minlength=2).clamp(min=1).double() / len(truth)
    weight = share.pow(-balance)
    return (weight / (weight * share).sum()).float()


def _loss(w1: Tensor, w2: Tensor, status: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    logits = F.linear(F.gelu(F.linear(status, w1)), w2)
    # By hand: torch's own mean divides by the weights of the batch at hand.
    return (F.cross_entropy(logits, truth, reduction="none") * weight[truth]).mean()


def _cosine(steps: int, warmup: float) -> Callable[[int], float]:
    ramp = max(1, int(steps * warmup))

    def scale(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1.0 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))

    return scale
