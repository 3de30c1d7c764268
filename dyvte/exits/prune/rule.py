"""What a pruning method is: the layers before which it acts, and which visual rows it keeps.

A rule is frozen and stateless; it looks at one sequence through a ``LayerView`` and returns
indices. The loop removes the other rows from hidden states, positions and every later layer's
keys and values; who stays keeps its original position. An exit later drops the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyvte.errors import OptionError
from dyvte.exits.view import LayerView
from dyvte.params import PruneOptions

Stages = tuple[tuple[int, float], ...]
"""``(layer, share)``: before ``layer`` runs, ``share`` of the visual rows still there stay."""


@dataclass(frozen=True, slots=True)
class PruneRule(ABC):
    """A method with its stages. ``reads_queries``: it asks for attention of the layer before."""

    stages: Stages
    name: ClassVar[str]
    reads_queries: ClassVar[bool] = False
    first_layer: ClassVar[int] = 1  # the earliest layer before which the method can act

    def share(self, layer: int) -> float | None:
        """Share of the visual rows that stays when ``layer`` begins; None: not asked there."""
        return next((share for at, share in self.stages if at == layer), None)

    @abstractmethod
    def keep(self, view: LayerView, count: int) -> Tensor:
        """``[count]`` indices into ``view.visual`` that stay, ascending."""


@dataclass(frozen=True, slots=True)
class Ranking(PruneRule):
    """A method that scores every visual row; the highest stay."""

    @abstractmethod
    def score(self, view: LayerView) -> Tensor:
        """``[V]`` float32."""

    def keep(self, view: LayerView, count: int) -> Tensor:
        """The ``count`` rows with the highest score, in their order in the prompt."""
        return self.score(view).topk(count).indices.sort().values


@dataclass(frozen=True, slots=True)
class Cut:
    """One pruning done: before ``layer``, ``kept`` of the visual rows then there stayed."""

    layer: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replay(PruneRule):
    """Keeps what an earlier run kept: a preempted sequence is recomputed as it was."""

    cuts: tuple[Cut, ...] = ()
    name: ClassVar[str] = "replay"
    first_layer: ClassVar[int] = 0

    @classmethod
    def of(cls, cuts: Sequence[Cut]) -> Replay:
        """The same cuts again. The shares do not matter: the rows are known."""
        return cls(tuple((cut.layer, 1.0) for cut in cuts), tuple(cuts))

    def keep(self, view: LayerView, count: int) -> Tensor:
        """The recorded indices."""
        (cut,) = (cut for cut in self.cuts if cut.layer == view.layer + 1)
        return torch.tensor(cut.kept, dtype=torch.int64)


def marked(taken_V: Tensor, count: int) -> Tensor:
    """``[count]`` indices of the rows that are True, of which there are that many, ascending.

    As ``nonzero`` gives them, but the host need not read how many they are.
    """
    return taken_V.int().topk(count).indices.sort().values


def kept_rows(visual: int, share: float) -> int:
    """How many of ``visual`` rows a share is: rounded to the nearest, halves up."""
    return min(visual, math.floor(share * visual + 0.5))


def single_stage(options: PruneOptions, default_layer: int) -> Stages:
    """``layer`` and ``ratio`` (the share that leaves, 0.5 if not given) of a one-stage method."""
    if options.stages is not None:
        raise OptionError(
            "prune.stages", f'has no meaning with "{options.method}": give layer and ratio'
        )
    layer = default_layer if options.layer is None else options.layer
    return ((layer, 1.0 - (0.5 if options.ratio is None else options.ratio)),)


def several_stages(options: PruneOptions, default: Stages) -> Stages:
    """``stages`` of a staged method; ``ratio`` sets the share that leaves at each default one."""
    if options.layer is not None:
        raise OptionError(
            "prune.layer", f'has no meaning with "{options.method}": give stages [[layer, share]]'
        )
    if options.stages is None:
        if options.ratio is None:
            return default
        return tuple((layer, 1.0 - options.ratio) for layer, _ in default)
    if options.ratio is not None:
        raise OptionError("prune.ratio", "cannot be combined with stages: they hold the shares")
    return options.stages
