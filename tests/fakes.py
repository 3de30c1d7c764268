"""A model whose parts go wrong on purpose: the one fake of the engine's seam to the model.

It is a real adapter in front of another; each hook sees what passes and may raise or change it.
Who is in a batch is told by a mark: a token id that only one prompt holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import dyvte
from dyvte.attention import LayerContext, StepContext
from dyvte.models.adapter import ModelAdapter, PromptLayout


class Fault(Exception):
    """What a hook raises."""


class TamperedAdapter(ModelAdapter):
    """Everything is the inner adapter's; ``on_images``, ``on_layer``, ``on_head`` come first."""

    def __init__(self, inner: ModelAdapter) -> None:
        self.inner = inner
        self.family, self.decoder, self.gates = inner.family, inner.decoder, inner.gates
        self.dtype, self.device = inner.dtype, inner.device
        self.max_positions, self.eos_token_ids = inner.max_positions, inner.eos_token_ids
        self.on_images: Callable[[Sequence[Mapping[str, Any]]], None] = lambda images: None
        self.on_layer: Callable[[int, Tensor, StepContext], Tensor | None] = lambda *_: None
        self.on_head: Callable[[Tensor], Tensor] = lambda logits: logits
        self.encoded = 0

    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        return self.inner.visual_rows(images)

    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        self.on_images(images)
        self.encoded += sum(each["pixel_values"].shape[0] for each in images)
        return self.inner.encode_images(images)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return self.inner.embed_tokens(token_ids)

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.rotary(hidden, positions)

    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        assert isinstance(context, StepContext)
        changed = self.on_layer(layer, hidden, context)
        return self.inner.run_layer(layer, hidden if changed is None else changed, rotary, context)

    def last_query_and_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        return self.inner.last_query_and_keys(layer, hidden, rotary)

    def head(self, hidden: Tensor) -> Tensor:
        return self.on_head(self.inner.head(hidden))

    def vision_flops(self, images: Mapping[str, Any]) -> int:
        return self.inner.vision_flops(images)

    def place(self, layout: PromptLayout, images: Mapping[str, Any]) -> PromptLayout:
        return self.inner.place(layout, images)

    def deepstack(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor | None:
        return self.inner.deepstack(layout, image_rows)

    def parameter_bytes(self) -> int:
        return self.inner.parameter_bytes()

    def embed(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor:
        return self.inner.embed(layout, image_rows)


def tamper(model: dyvte.Model) -> tuple[dyvte.Model, TamperedAdapter]:
    """The same model behind hooks."""
    adapter = TamperedAdapter(model.adapter)
    return replace(model, adapter=adapter), adapter


def raise_for(seqs: set[int], layers: set[int]) -> Callable[[int, Tensor, StepContext], None]:
    """An ``on_layer`` that raises while one of ``seqs`` runs one of ``layers``."""

    def hook(layer: int, hidden: Tensor, context: StepContext) -> None:
        present = {segment.seq for segment in context.batch.segments}
        if layer in layers and present & seqs:
            raise Fault(f"layer {layer} with {sorted(present & seqs)}")

    return hook


def nan_for(seqs: set[int], layer: int) -> Callable[[int, Tensor, StepContext], Tensor | None]:
    """An ``on_layer`` that makes the rows of ``seqs`` NaN before ``layer``."""

    def hook(at: int, hidden: Tensor, context: StepContext) -> Tensor | None:
        if at != layer:
            return None
        changed = hidden.clone()
        batch = context.batch
        for segment, start in zip(batch.segments, batch.starts, strict=True):
            if segment.seq in seqs:
                changed[start : start + segment.rows] = torch.nan
        return changed

    return hook
