"""Which shape of gate decides as well as the paper's: one table over shapes, on one collection.

``python -m benchmarks.gate_shapes COLLECTED [--labels self] [--seeds 3] [--only NAME …]``

Every figure is a mean over layers on samples that no gate has seen, then over ``seeds`` splits.
AUC is over layers with at least 15 samples of each class. The trunk exists only here: one first
matrix for all layers with an embedding of the layer added, and an output matrix a layer.

Shapes: N samples, L layers, d hidden size, R width of the trunk.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.training.collection import load_collected
from dyvte.training.fit import FitConfig, fit
from dyvte.training.offset import fit_offset
from dyvte.training.split import split
from dyvte.training.verdict import LayerReport, judge

FEWEST = 15
Result = tuple[Sequence[LayerReport], int]
Shape = Callable[[int], Result]
"""Seed → reports and the number of parameters."""


def main() -> None:
    """Print a line per shape as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collected", type=Path)
    parser.add_argument("--labels", choices=("self", "paper"), default="self")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    args = parser.parse_args()
    collection = load_collected(args.collected)
    label = collection.label(args.labels)
    if label is None:
        parser.error(f"--labels {args.labels} was not collected in {args.collected}")
    label, groups = label[:, : collection.num_layers - 1], collection.groups
    shapes = _shapes(collection.status, collection.signals, label, groups)
    print(f"{len(collection)} samples, share of exits by layer:", *_shares(label))
    print(f"{'shape':20}{'parameters':>11}   AUC ± sd      loss ± sd     base  acc    ECE    s")
    for name, shape in shapes.items():
        if not args.only or name in args.only:
            began = time.perf_counter()
            results = [shape(seed) for seed in range(args.seeds)]
            table = torch.tensor([_summary(reports) for reports, _ in results])
            mean, spread = table.mean(0).tolist(), table.std(0, correction=0).tolist()
            print(
                f"{name:20}{results[0][1]:11,d}   {mean[0]:.4f} {spread[0]:.4f} {mean[1]:.4f} "
                f"{spread[1]:.4f} {mean[2]:.4f} {mean[3]:.4f} {mean[4]:.4f} "
                f"{time.perf_counter() - began:.0f}",
                flush=True,
            )


def _shapes(status: Tensor, signals: Tensor, label: Tensor, groups: Tensor) -> dict[str, Shape]:
    both = torch.cat([status, signals], dim=-1)
    # A constant beside the signals, and again where the width would be odd.
    only = F.pad(signals, (0, 2 - signals.shape[-1] % 2), value=1.0)
    both = F.pad(both, (0, both.shape[-1] % 2), value=1.0)

    def bank(seen: Tensor, inner: int, lr: float = 1e-3, balance: float = 0.0) -> Shape:
        def run(seed: int) -> Result:
            config = FitConfig(inner=inner, lr=lr, balance=balance, seed=seed)
            layers = range(label.shape[1])
            found = fit(lambda layer: seen[:, layer], label, groups, layers, config)
            return found.layers, found.gates.parameters

        return run

    return {
        "2d-2048-2": bank(status, 2048, lr=3e-4),
        "2d-64-2": bank(status, 64),
        "2d-32-2": bank(status, 32),
        "2d-16-2": bank(status, 16),
        "2d-64-2 balanced": bank(status, 64, balance=1.0),
        "2d-64-2 + signals": bank(both, 64),
        "signals alone": bank(only, 16),
        "trunk 64": lambda seed: _trunk(status, label, groups, 64, seed),
        "trunk 256": lambda seed: _trunk(status, label, groups, 256, seed),
    }


def _trunk(status: Tensor, label: Tensor, groups: Tensor, rank: int, seed: int) -> Result:
    """A shared trunk ``[R, 2d]``, embeddings ``[L, R]``, outputs ``[L, 2, R]``."""
    config, parts = FitConfig(seed=seed), split(groups, 0.2, seed)
    seen, truth = status[:, : label.shape[1]].float(), label.long()
    seen = seen / seen[parts.train].square().mean(0).sqrt().clamp(min=1e-6)
    depth, width = seen.shape[1:]
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        bound = math.sqrt(6.0 / (shape[-1] + shape[-2]))
        return ((torch.rand(*shape, generator=rng) * 2 - 1) * bound).requires_grad_()

    weights = [
        drawn(rank, width),
        torch.zeros(depth, rank, requires_grad=True),
        drawn(depth, 2, rank),
    ]
    optimiser = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(len(parts.train) / config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def logits(rows: Tensor) -> Tensor:
        inner = F.gelu(F.linear(seen[rows], weights[0]) + weights[1])
        return torch.einsum("nlr,lcr->nlc", inner, weights[2])

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(logits(rows).flatten(0, 1), truth[rows].flatten())

    best, stale, margin = math.inf, 0, torch.zeros(len(seen), depth)
    for _ in range(config.epochs):
        for some in parts.train[torch.randperm(len(parts.train), generator=rng)].split(
            config.batch
        ):
            optimiser.zero_grad()
            loss(some).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            held, stale = float(loss(parts.choose)), stale + 1
            if held < best:
                best, stale, found = held, 0, logits(torch.arange(len(seen)))
                margin = found[..., 1] - found[..., 0]
        if stale == config.patience:
            break
    reports = []
    for layer in range(depth):
        slope, offset = fit_offset(margin[parts.choose, layer], label[parts.choose, layer])
        scaled = margin[parts.judge, layer] * slope + offset
        reports.append(judge(layer, scaled, label[parts.judge, layer]))
    return reports, sum(weight.numel() for weight in weights)


def _summary(reports: Sequence[LayerReport]) -> list[float]:
    """AUC, loss, base loss, accuracy, ECE."""
    areas = [
        each.auc
        for each in reports
        if each.auc is not None
        and min(each.exit_share, 1 - each.exit_share) * each.samples >= FEWEST
    ]
    rows = [[each.loss, each.base_loss, each.accuracy, each.ece] for each in reports]
    return [sum(areas) / max(1, len(areas)), *torch.tensor(rows).mean(0).tolist()]


def _shares(label: Tensor) -> list[str]:
    return [f"{share:.1%}" for share in label.double().mean(0).tolist()]


if __name__ == "__main__":
    main()
