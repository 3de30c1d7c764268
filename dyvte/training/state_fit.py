"""The scale of the policy ``state``: P(unchanged) = σ(w_l · log(signal) + b_l) per layer.

Two numbers a layer from a few hundred samples, so they are held: a ridge pulls every layer's
slope to one that all share, and a slope that points the other way than the shared one is 0. With
all slopes 0 the scale says only how often an exit after a layer is harmless, which is a
calibrated ``fixed``. Samples that fit the scale are never those that measure its risk.

Shapes: N samples, C collected layers, F signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyvte.exits.state import FLOOR

Floats = NDArray[np.float64]

# In observations: how firmly slopes hold to the shared one, that one to 0, and biases to 0.
HOLD, SHRINK, LEVEL = 5.0, 1.0, 0.05
ROUNDS, NEWTON = 40, 8


@dataclass(frozen=True, slots=True)
class Scale:
    """``weight [C]`` and ``bias [C]`` on the logarithm of one signal."""

    weight: Floats
    bias: Floats

    def margins(self, signal_NC: Floats) -> NDArray[np.float32]:
        """Log odds ``[N, C]`` that the answer stays, as the policy computes them."""
        return (log_of(signal_NC) * self.weight + self.bias).astype(np.float32)


def log_of(signal_NC: Floats) -> Floats:
    """Natural logarithm floored as in the policy; NaN stays NaN and keeps the image."""
    return np.log(np.maximum(signal_NC.astype(np.float64), FLOOR))


def fit_scale(signal_NC: Floats, unchanged_NC: NDArray[np.bool_]) -> Scale:
    """Fit one signal. Samples where it is not a number are left out."""
    x, y = log_of(signal_NC), unchanged_NC.astype(np.float64)
    seen = np.isfinite(x)
    x = np.where(seen, x, 0.0)
    count = np.maximum(seen.sum(0), 1)
    middle = x.sum(0) / count
    spread = np.sqrt((np.where(seen, x - middle, 0.0) ** 2).sum(0) / count)
    spread = np.where(spread > 1e-9, spread, 1.0)
    z = np.where(seen, (x - middle) / spread, 0.0)
    slope, bias = _held_slopes(z, y, seen)
    return Scale(slope / spread, bias - slope * middle / spread)


def _held_slopes(z: Floats, y: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Slopes and biases on standardised signals."""
    slope, bias, shared = np.zeros(z.shape[1]), np.zeros(z.shape[1]), 0.0
    for _ in range(ROUNDS):
        slope, bias = _newton(z, y, seen, slope, bias, shared)
        shared = HOLD * float(slope.sum()) / (HOLD * len(slope) + SHRINK)
    against = slope * shared < 0
    slope = np.where(against, 0.0, slope)
    _, alone = _newton(np.zeros_like(z), y, seen, np.zeros_like(slope), np.zeros_like(bias), 0.0)
    return slope, np.where(against, alone, bias)


def _newton(
    z: Floats, y: Floats, seen: NDArray[np.bool_], slope: Floats, bias: Floats, shared: float
) -> tuple[Floats, Floats]:
    """Newton steps on every layer's two numbers at once; the ridge keeps them finite."""
    for _ in range(NEWTON):
        p = 1.0 / (1.0 + np.exp(-np.clip(z * slope + bias, -30, 30)))
        error = np.where(seen, p - y, 0.0)
        weight = np.where(seen, p * (1 - p), 0.0)
        g_slope = (error * z).sum(0) + HOLD * (slope - shared)
        g_bias = error.sum(0) + LEVEL * bias
        h_ss = (weight * z * z).sum(0) + HOLD
        h_bb = weight.sum(0) + LEVEL
        h_sb = (weight * z).sum(0)
        det = h_ss * h_bb - h_sb * h_sb
        # A full step can overshoot where few answers changed; two units of log odds never do.
        slope = slope - np.clip((h_bb * g_slope - h_sb * g_bias) / det, -2, 2)
        bias = bias - np.clip((h_ss * g_bias - h_sb * g_slope) / det, -2, 2)
    return slope, bias


def crossed(
    signal_NC: Floats, unchanged_NC: NDArray[np.bool_], half: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Margins ``[N, C]`` where each half of the samples is judged by the scale of the other."""
    margins = np.empty(signal_NC.shape, dtype=np.float32)
    for part in (half, ~half):
        margins[part] = fit_scale(signal_NC[~part], unchanged_NC[~part]).margins(signal_NC[part])
    return margins
