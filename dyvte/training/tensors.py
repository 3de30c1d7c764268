"""Samples side by side: the tensors of a shard, one row a sample (shapes: ``Collection``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dyvte.data import Sample
from dyvte.models.adapter import ModelAdapter
from dyvte.training.collect import Collected, Plan
from dyvte.training.labels import Scores

Row = tuple[Sample, Collected]


def tensor_names(plan: Plan) -> tuple[str, ...]:
    """What ``stack_rows`` gives for this plan, in order."""
    return tuple(_fields(plan))


def stack_rows(model: ModelAdapter, plan: Plan, rows: Sequence[Row]) -> dict[str, Tensor]:
    """All tensors of some samples; with none, empty ones of the right shape and type."""
    fields = _fields(plan)
    shape = model.decoder
    layers = len(plan.layers) if plan.layers else shape.num_layers
    widths = {"status": (layers, 2 * shape.hidden_size), "signals": (layers, len(plan.signals))}
    whole = ("groups", "text_rows", "visual_rows", "answer_tokens", "vision_flops", "conversation")
    found = {}
    for name, (dtype, read) in fields.items():
        if rows:
            found[name] = torch.stack([torch.as_tensor(read(row)).to("cpu", dtype) for row in rows])
        else:
            single = name in whole or name == "loss_full"
            found[name] = torch.empty((0, *(() if single else widths.get(name, (layers,)))))
            found[name] = found[name].to(dtype)
    return found


def _fields(plan: Plan) -> dict[str, tuple[torch.dtype, Callable[[Row], Tensor | int | bool]]]:
    fields: dict[str, tuple[torch.dtype, Callable[[Row], Tensor | int | bool]]] = {
        "status": (torch.float32, lambda row: row[1].status),
        "signals": (torch.float32, lambda row: row[1].signals),
        "kl": (torch.float32, lambda row: row[1].first.kl),
        "groups": (torch.int64, lambda row: row[0].group),
        "conversation": (torch.bool, lambda row: row[0].conversation),
        "text_rows": (torch.int64, lambda row: row[1].text_rows),
        "visual_rows": (torch.int64, lambda row: row[1].visual_rows),
        "answer_tokens": (torch.int64, lambda row: row[1].answer_tokens),
        "vision_flops": (torch.int64, lambda row: row[1].vision_flops),
    }
    if plan.consistent:
        fields["consistent"] = (torch.bool, lambda row: _scores(row[1].own).consistent)
    if plan.paper:
        fields |= {
            "paper": (torch.bool, lambda row: _scores(row[1].given).paper),
            "agreement": (torch.float32, lambda row: _scores(row[1].given).agreement),
            "loss_full": (torch.float32, lambda row: _scores(row[1].given).loss_full),
            "loss_exit": (torch.float32, lambda row: _scores(row[1].given).loss_exit),
        }
    return fields


def _scores(scores: Scores | None) -> Scores:
    assert scores is not None, "the plan asked for them"
    return scores
