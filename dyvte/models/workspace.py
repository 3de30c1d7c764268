"""Memory for what a layer computes and nobody keeps, held from one layer to the next.

New memory of this size comes from the kernel, which clears it page by page: for the third of a
gigabyte that a layer of a packed prefill needs, that took a seventh of its time. Each thread has
its own, since two may run layers of one model.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

LEAST = 2**20  # bytes; allocators keep smaller pieces themselves
MOST = 2**28  # bytes; a larger piece is not held


class Workspace(threading.local):
    """One piece of memory a name and thread, as large as the largest that was asked for."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """A copy of a model computes in memory of its own."""
        return Workspace, ()

    def take(self, name: str, like: Tensor, rows: int, width: int) -> Tensor | None:
        """Room ``[rows, width]`` in ``like``'s type and place, until ``name`` is taken again.

        What is in it is anything. None where new memory costs as little.
        """
        numbers = rows * width
        size = numbers * like.itemsize
        if size < LEAST:
            return None
        if size > MOST:
            return like.new_empty(rows, width)
        held = self._held.get(name)
        if held is None or held.numel() < numbers or held.dtype != like.dtype:
            self._held.pop(name, None)
            with torch.inference_mode(False):  # whoever takes it next may be outside
                held = torch.empty(numbers, dtype=like.dtype, device=like.device)
            self._held[name] = held
        return held[:numbers].view(rows, width)
