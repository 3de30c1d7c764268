"""Whether a checkpoint's tensors are a model's, told from names and shapes: no weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyvte.errors import ModelError

Rename = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]
"""One stored tensor → the model's own tensors that it holds."""


def check_tensors(model: Any, stored: Mapping[str, Sequence[int]], rename: Rename) -> None:
    """Compare what a folder stores with a model on the meta device. Raises ModelError.

    A tensor that nothing takes, one that is missing, and one of another shape are refused by name.
    """
    own: dict[str, Tensor] = model.state_dict()
    found: set[str] = set()
    for name, shape in stored.items():
        for new, part in rename(name, torch.empty(*shape, device="meta")):
            if new not in own:
                raise ModelError(f"unknown tensor {name!r}")
            if part.shape != own[new].shape:
                raise ModelError(
                    f"tensor {name!r} has shape {list(shape)}; {new} is {list(own[new].shape)}"
                )
            found.add(new)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    missing = sorted(own.keys() - found - tied)
    if missing:
        raise ModelError(f"weights are missing ({', '.join(missing[:3])}, …)")
