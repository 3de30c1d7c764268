"""Make P(exit) a frequency: a slope and an offset for one gate's margin.

Exits are rare in early layers and nearly certain in late ones, and a gate that fits few samples
well is too sure of itself. Both are put right afterwards, on samples that it did not learn from
(Platt 1999, with the smoothed targets of its section 2.2, by Newton's method).

Shapes: N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 50


def fit_offset(margin_N: Tensor, label_N: Tensor) -> tuple[float, float]:
    """(slope ≥ 0, offset) such that sigmoid(slope · margin + offset) fits ``label``."""
    margin, label = margin_N.double(), label_N.bool()
    exits, keeps = float(label.sum()), float((~label).sum())
    target = torch.where(label, (exits + 1) / (exits + 2), 1 / (keeps + 2)).double()
    scale = float(margin.std().clamp(min=1e-6)) if len(margin) > 1 else 1.0
    # A weak pull of the slope towards 1 (in units of the margin's spread) keeps Newton finite
    # where the samples are separable.
    features = torch.stack([margin / scale, torch.ones_like(margin)], dim=1)
    start = torch.tensor([scale, 0.0], dtype=torch.float64)
    weights, pull = start.clone(), torch.diag(torch.tensor([1e-2, 1e-6], dtype=torch.float64))
    for _ in range(STEPS):
        chance = (features @ weights).sigmoid()
        gradient = features.T @ (chance - target) + pull @ (weights - start)
        curvature = (chance * (1 - chance)).clamp(min=1e-9)
        hessian = (features.T * curvature) @ features + pull
        step = torch.linalg.solve(hessian, gradient)
        weights = weights - step.clamp(-4.0, 4.0)
        if float(step.abs().max()) < 1e-9:
            break
    slope, offset = float(weights[0]) / scale, float(weights[1])
    if slope < 0.0:  # worse than chance: say how often, and nothing about the sample
        return 0.0, float(torch.tensor((exits + 1) / (exits + keeps + 2)).logit())
    return slope, offset
