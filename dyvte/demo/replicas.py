"""Data-parallel training on one machine: a process per core, gradients averaged every step.

One thread per process keeps small products from waiting for each other, which on a busy machine
costs more than the exchange of gradients does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn


def sum_all(tensors: list[Tensor], world: int) -> None:
    """Replace each tensor by its sum over all processes, in one exchange."""
    if world == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Replace each gradient by its mean over all processes; absent ones stay absent."""
    grads = [p.grad for p in parameters if p.grad is not None]
    sum_all(grads, world)
    for grad in grads:
        grad.div_(world)


def _enter(rank: int, world: int, store: str, work: Callable[[int, int], None]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world)
    try:
        work(rank, world)
    finally:
        distributed.destroy_process_group()


def run(world: int, store: Path, work: Callable[[int, int], None]) -> None:
    """Call `work(rank, world)` in `world` processes that can average their gradients."""
    if world == 1:
        work(0, 1)
        return
    store.unlink(missing_ok=True)
    spawn(_enter, (world, str(store), work), nprocs=world)
