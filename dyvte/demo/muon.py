"""Muon for the matrices of a model, AdamW for the rest, as one optimizer.

Muon (Keller Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix. The
iteration runs in float32 over stacks of equal shapes, since one small product at a time would
cost more than it does. Updates are scaled to AdamW's typical size, so one rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import torch
from torch import Tensor, nn

from dyvte.demo.replicas import sum_all

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(stack_NRC: Tensor, steps: int = 5) -> Tensor:
    """Approximately the polar factor of each matrix of the stack; R <= C runs faster."""
    a, b, c = _COEFFICIENTS
    x: Tensor = stack_NRC / (stack_NRC.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Matrices in `matrices` by Muon, `others` by AdamW at a fifth of the rate without decay.

    Each of `world` processes orthogonalises its share of the matrices.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": 0.05, "momentum": 0.95})
        self.rank, self.world = rank, world

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            if group["muon"]:
                self._matrices(group)
            else:
                self._others(group)

    def _matrices(self, group: dict[str, object]) -> None:
        lr, beta = cast(float, group["lr"]), cast(float, group["momentum"])
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for p in cast(list[nn.Parameter], group["params"]):
            if p.grad is not None:
                by_shape[p.flatten(1).shape].append(p)
        stacks = []
        for params in by_shape.values():
            updates = []
            for p in params:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(cast(Tensor, p.grad), 1 - beta)
                updates.append(cast(Tensor, p.grad).lerp(momentum, beta).flatten(1))
            mine = slice(self.rank, None, self.world)
            stack = torch.stack(updates)
            shared = torch.zeros_like(stack)
            if len(stack[mine]):
                shared[mine] = orthogonal(stack[mine])
            stacks.append(shared)
        sum_all(stacks, self.world)
        for (shape, params), stack in zip(by_shape.items(), stacks, strict=True):
            scale = 0.2 * max(shape) ** 0.5 * lr
            for p, update in zip(params, stack, strict=True):
                p.mul_(1 - lr * cast(float, group["weight_decay"]))
                p.add_(update.view_as(p), alpha=-scale)

    def _others(self, group: dict[str, object]) -> None:
        lr = 0.2 * cast(float, group["lr"])
        for p in cast(list[nn.Parameter], group["params"]):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["mean"].lerp_(p.grad, 0.1)
            state["square"].lerp_(p.grad.square(), 0.01)
            bias, bias2 = 1 - 0.9 ** state["step"], 1 - 0.99 ** state["step"]
            p.addcdiv_(
                state["mean"], (state["square"] / bias2).sqrt_().add_(1e-8), value=-lr / bias
            )


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weight matrices of linear and patch layers, and the rest (embeddings, norms, biases)."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in model.parameters():
        is_matrix = id(p) in linear - tables and min(p.flatten(1).shape) >= 64
        (matrices if is_matrix else others).append(p)
    return matrices, others
