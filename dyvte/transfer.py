"""Between host and device without waiting: every copy of the engine's own goes through here.

On CUDA a copy from or to ordinary memory holds up the host until the device has done all that it
was given before. From pinned memory it is only enqueued, and what comes back is waited for when
it is asked for. On any other device these are the plain constructors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyvte.streams import Mark

Numbers = Sequence[int] | Sequence[float] | Sequence[Sequence[int]]


def upload(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``numbers`` as a tensor on ``device``."""
    return moved(torch.tensor(numbers, dtype=dtype), device)


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``, as ``dtype`` if one is given."""
    return _sent(tensor, device, dtype or tensor.dtype)


def _sent(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device, dtype)
    return tensor.to(dtype).pin_memory().to(device, non_blocking=True)


class Fetch:
    """Copies of some tensors, on their way to the host. Those that are there already stay."""

    def __init__(self, *tensors: Tensor) -> None:
        self._host = [_on_its_way(each) for each in tensors]
        devices = [each.device for each in tensors if each.is_cuda]
        self._mark = Mark(devices[0]) if devices else None

    def get(self) -> list[Tensor]:
        """The copies. Waits for them, and nowhere else does a step wait for a value."""
        if self._mark is not None:
            self._mark.wait()
        return self._host


def _on_its_way(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
