"""Policies replayed on collected samples: where each setting would have sent every sample.

Decisions are those of the policies themselves (float32, strictly above the threshold, NaN
keeps, the first layer that fires wins); what they changed is read off the self-consistent label.

Shapes: N samples, C collected layers, G settings; column C stands for no exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyvte.data import DataError
from dyvte.exits.calibration import Curve, grid, measured
from dyvte.exits.policy import threshold
from dyvte.training.collection import Collection
from dyvte.training.exit_cost import ExitCosts, exit_costs
from dyvte.training.samples import Rows

Columns = NDArray[np.int64]
Margins = NDArray[np.float32]
Flops = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Replay:
    """A collection with ``unchanged [N, C + 1]`` and the costs of its exits."""

    collection: Collection
    unchanged: NDArray[np.bool_]
    costs: ExitCosts
    confidence: float

    @classmethod
    def of(cls, collection: Collection, confidence: float) -> Replay:
        """Raises DataError if the collection does not say which answers change."""
        if collection.consistent is None:
            raise DataError(
                "the collection has no self-consistent labels; make it with "
                "dyvte collect --labels self"
            )
        stays = np.ones((len(collection), 1), dtype=np.bool_)
        unchanged = np.hstack([collection.consistent.numpy(), stays])
        return cls(collection, unchanged, exit_costs(collection), confidence)

    def gated(self, rows: Rows, margins: Margins, cost: Flops) -> Curve:
        """The curve over the grid of a policy that fires by ``margins [N, C]``.

        ``cost [N, C + 1]`` is what the policy itself took up to each exit.
        """
        settings = grid()
        return self.curve(rows, settings, leaves(margins[rows], settings), cost)

    def fixed(self, rows: Rows) -> Curve:
        """From the deepest exit to the earliest, without the last layer, which saves nothing."""
        layers = self.collection.layers
        chosen = [layer for layer in reversed(layers) if layer < self.collection.num_layers - 1]
        if not chosen:
            raise DataError("no layer before the last was collected; collect at every layer")
        columns = np.stack([np.full(len(rows), layers.index(layer)) for layer in chosen])
        return self.curve(rows, chosen, columns, np.zeros(self.unchanged.shape))

    def curve(self, rows: Rows, settings: Sequence[float], columns: Columns, cost: Flops) -> Curve:
        """The curve of samples ``rows`` that leave at ``columns [G, len(rows)]``."""
        costs, own = self.costs.of(rows), cost[rows]
        prefill, request = [], []
        for chosen in columns:
            saved = costs.saved(chosen, own)
            prefill.append(float(saved[0].mean()))
            request.append(float(saved[1].mean()))
        changed = [int((~self.unchanged[rows, chosen]).sum()) for chosen in columns]
        exits = [self._histogram(chosen) for chosen in columns]
        return measured(settings, changed, len(rows), self.confidence, prefill, request, exits)

    def _histogram(self, columns: Columns) -> list[int]:
        """Samples per exit layer, the last entry those without."""
        layers, depth = self.collection.layers, self.collection.num_layers
        counts = np.zeros(depth + 1, dtype=np.int64)
        counts[[*layers, depth]] = np.bincount(columns, minlength=len(layers) + 1)
        found: list[int] = counts.tolist()
        return found


def leaves(margins: Margins, settings: Sequence[float]) -> Columns:
    """``[G, N]``: the first column whose margin passes each threshold, C where none does."""
    found = np.empty((len(settings), len(margins)), dtype=np.int64)
    for at, setting in enumerate(settings):
        fires = margins > threshold(setting)
        found[at] = np.where(fires.any(1), fires.argmax(1), margins.shape[1])
    return found
