"""Which signal the policy ``state`` reads: the one that saves most where few answers change.

Judged on the fitting part alone, each of its halves by the scale of the other, and beside what a
fixed layer saves there, which is what any signal must beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyvte.exits.calibration import Curve
from dyvte.exits.presets import RISKS
from dyvte.exits.state import StateScale
from dyvte.training.collection import Collection
from dyvte.training.exit_cost import signal_flops
from dyvte.training.replay import Flops, Margins, Replay
from dyvte.training.samples import Rows
from dyvte.training.state_fit import crossed, fit_scale

FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class StateChoice:
    """The chosen scale; ``margins [N, C]`` and ``cost [N, C + 1]`` of all samples under it.

    ``saved`` is the prefill saving of each signal, and of ``fixed``, at 2 % changed answers on
    the fitting part.
    """

    scale: StateScale
    margins: Margins
    cost: Flops
    saved: dict[str, float]

    @property
    def beats_fixed(self) -> bool:
        """True if the signal saved more than one layer for all did."""
        return self.saved[self.scale.signal] > self.saved[FIXED]


def choose_state(replay: Replay, rows: Rows, seed: int) -> StateChoice | None:
    """Choose and fit on samples ``rows``; None where nothing was collected to choose from."""
    collection = replay.collection
    if not collection.signal_names or len(rows) < 2:
        return None
    half = np.zeros(len(rows), dtype=np.bool_)
    half[np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2]] = True
    unchanged = replay.unchanged[rows, :-1]
    saved = {}
    for name in collection.signal_names:
        margins = np.full(replay.unchanged[:, :-1].shape, np.nan, dtype=np.float32)
        margins[rows] = crossed(_signal(collection, name)[rows], unchanged, half)
        curve = replay.gated(rows, _within(collection, margins), signal_flops(collection, name))
        saved[name] = _worth(curve)
    best = max(saved, key=lambda name: saved[name])
    saved[FIXED] = _worth(replay.fixed(rows))
    signal = _signal(collection, best)
    fitted = fit_scale(signal[rows], unchanged)
    return StateChoice(
        scale=StateScale(best, *_columns(collection, fitted.weight, fitted.bias)),
        margins=_within(collection, fitted.margins(signal)),
        cost=signal_flops(collection, best),
        saved=saved,
    )


def _signal(collection: Collection, name: str) -> NDArray[np.float64]:
    """``[N, C]``."""
    at = collection.signal_names.index(name)
    signal: NDArray[np.float64] = collection.signals[..., at].double().numpy()
    return signal


def _within(collection: Collection, margins: Margins) -> Margins:
    """Nothing fires at the last layer: it would save nothing."""
    last = np.array(collection.layers) == collection.num_layers - 1
    return np.where(last, np.float32(np.nan), margins)


def _columns(
    collection: Collection, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Layers, weights and biases without the last layer's."""
    kept = [at for at, layer in enumerate(collection.layers) if layer < collection.num_layers - 1]
    layers = tuple(collection.layers[at] for at in kept)
    return layers, tuple(weight[kept].tolist()), tuple(bias[kept].tolist())


def _worth(curve: Curve) -> float:
    """Prefill saving of the boldest point up to which no more than 2 % of answers changed."""
    worth = 0.0
    for point in curve.points:
        if point.changed > RISKS["balanced"] * curve.samples:
            break
        worth = point.prefill_saved
    return worth
