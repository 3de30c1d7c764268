"""Which samples teach, which choose, which judge: by group, so that no picture is on two sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyvte.errors import OptionError


@dataclass(frozen=True, slots=True)
class Split:
    """Indices (int64): gates learn on ``train``, ``choose`` stops them and sets their offsets,
    ``judge`` is only reported on."""

    train: Tensor
    choose: Tensor
    judge: Tensor


def split(groups_N: Tensor, held_out: float, seed: int) -> Split:
    """Half of ``held_out`` of the groups choose, half judge. Raises OptionError."""
    if not 0.0 < held_out < 1.0:
        raise OptionError("held_out", f"must lie between 0 and 1, not {held_out}")
    names, group = groups_N.unique(return_inverse=True)
    if len(names) < 3:
        raise OptionError("data", "at least three samples with pictures of their own are needed")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    each = min(max(1, round(len(names) * held_out / 2)), (len(names) - 1) // 2)
    part = torch.full((len(names),), 2)
    part[order[: 2 * each]] = 1
    part[order[:each]] = 0
    judge, choose, train = ((part[group] == k).nonzero().flatten() for k in range(3))
    return Split(train, choose, judge)
