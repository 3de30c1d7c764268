"""Which collected samples measure what: one question per picture, fitting and measuring apart.

An exact binomial bound needs samples that are drawn independently; several questions about one
picture are not. So each picture counts once per kind, with a question chosen by seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyvte.exits.calibration import CONVERSATION, SINGLE
from dyvte.training.collection import Collection

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """Sample numbers: ``fitting`` those that a scale may be fitted on, ``measuring`` by kind.

    No picture is in both. ``whole`` is by kind as if nothing were fitted: for policies that were
    made elsewhere, which can use every sample.
    """

    fitting: Rows
    measuring: dict[str, Rows]
    whole: dict[str, Rows]


def split(collection: Collection, fit_share: float, seed: int) -> Parts:
    """Split by picture: ``fit_share`` of the pictures are for fitting."""
    draw = np.random.default_rng(seed)
    groups = collection.groups.numpy()
    conversation = collection.conversation.numpy()
    order = draw.permutation(len(groups))
    names = draw.permutation(np.unique(groups))
    fitted = set(names[: round(len(names) * fit_share)].tolist())
    whole = {
        kind: _one_each(order[conversation[order] == wanted], groups)
        for kind, wanted in ((SINGLE, False), (CONVERSATION, True))
    }
    kept = np.concatenate(list(whole.values()))
    is_fit = np.array([group in fitted for group in groups.tolist()])
    measuring = {kind: rows[~is_fit[rows]] for kind, rows in whole.items()}
    return Parts(np.sort(kept[is_fit[kept]]), measuring, whole)


def _one_each(order: Rows, groups: Rows) -> Rows:
    """The first sample of every group in ``order``, sorted."""
    _, first = np.unique(groups[order], return_index=True)
    return np.sort(order[first])
