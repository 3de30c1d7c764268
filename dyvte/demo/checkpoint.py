"""Training state on disk: written whole or not at all, so that a killed run can go on.

Owns the file format; what to train next is the recipe's business.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the next step of a stage."""

    stage: str
    step: int


def save(path: Path, progress: Progress, modules: dict[str, nn.Module], extra: Any = None) -> None:
    """Replace `path` by the state of `modules` and `extra`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    state = {name: module.state_dict() for name, module in modules.items()}
    torch.save(
        {"progress": (progress.stage, progress.step), "modules": state, "extra": extra}, scratch
    )
    os.replace(scratch, path)


def load(path: Path, modules: dict[str, nn.Module]) -> tuple[Progress, Any]:
    """Fill `modules` from `path`; returns the progress and the extra state."""
    state = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    return Progress(*state["progress"]), state["extra"]
