"""A reader that keeps everything: the matrices that the code under test never holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dyvte
from dyvte.analysis.rows import AttentionRows, RowReader, WatchedAttention
from dyvte.attention import SdpaAttention
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from tests import tiny

OFF = ExitOptions(policy="off")
ONE = SamplingParams(max_tokens=1, temperature=0)


class Everything:
    """All rows of all layers; ``[n, n]`` over the prompt's rows, 0 where rows had left."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.layers: dict[int, Tensor] = {}
        self.blocks: list[tuple[int, int]] = []

    def take(self, rows: AttentionRows) -> None:
        full = self.layers.setdefault(rows.layer, torch.zeros(self.rows, self.rows))
        full[rows.queries[:, None], rows.keys[None, :]] = rows.weights
        self.blocks.append((rows.layer, len(rows.queries)))


def watched(
    model: dyvte.Model,
    prompt: Prompt,
    *readers: RowReader,
    exits: ExitOptions = OFF,
    budget: int = 1 << 20,
) -> dyvte.Result:
    backend = WatchedAttention(SdpaAttention(), readers, budget)
    return tiny.alone(model, prompt, sampling=ONE, exits=exits, attention=backend)


def matrices(reference: Any, prompt: Prompt) -> list[Tensor]:
    """A of every layer by ``transformers``' eager attention, max-pooled over heads."""
    with torch.inference_mode():
        out = reference(**tiny.native_inputs(prompt), output_attentions=True)
    return [weights[0].amax(0) for weights in out.attentions]


def size_of(model: dyvte.Model, prompt: Prompt) -> int:
    return model.adapter.layout(prompt).rows
