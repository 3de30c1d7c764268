"""Statuses and labels of a frozen model, for every layer in one pass a sample.

Label of (sample, layer e), arXiv 2411.19628 and its code: teacher-forced on the answer, 1 iff
leaving after e keeps the argmax on more than 99 % of the answer tokens and
``CE_exit < 1.03 · CE_full``. The full run is done once; the text rows it has after layer e go on
alone through the layers above, those of all e packed together, so that a sample costs one full
prefill and a few text-only ones. The status excludes the answer.

Shapes: L layers, d hidden size, A answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvte.attention import AttentionBackend, SdpaAttention, StepContext
from dyvte.exits.status import text_token_status
from dyvte.kv_cache import RunCache
from dyvte.models.adapter import ModelAdapter, PromptLayout
from dyvte.packing import PackedBatch, Segment, pack
from dyvte.pages import PageLedger
from dyvte.prompt import Prompt

AGREEMENT = 0.99
LOSS_RATIO = 1.03


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with at least one image, and the answer that it is forced to give."""

    prompt: Prompt
    answer: Sequence[int]


@dataclass(frozen=True, slots=True)
class Collected:
    """``status [L, 2d]`` float32, and per layer the paper's ``label [L]`` with what led to it."""

    status: Tensor
    label: Tensor
    agreement: Tensor
    loss_full: float
    loss_exit: Tensor


def collect(
    model: ModelAdapter,
    examples: Iterable[Example],
    attention: AttentionBackend | None = None,
    batch: int = 8,
) -> Iterator[Collected]:
    """Yield one ``Collected`` per example, in order; ``batch`` examples share a packed run.

    Raises PromptError for a prompt that the model cannot take.
    """
    backend = attention or SdpaAttention()
    stream = iter(examples)
    while several := list(islice(stream, batch)):
        yield from collect_batch(model, several, backend)


@torch.inference_mode()
def collect_batch(
    model: ModelAdapter, examples: Sequence[Example], attention: AttentionBackend
) -> list[Collected]:
    """Statuses and labels of some examples at every layer."""
    layouts = [model.layout(example.prompt) for example in examples]
    run = _Run(model, attention, layouts, [len(example.answer) for example in examples])
    full, branches, statuses = run(_embedded(model, layouts, examples))
    depth, found = model.decoder.num_layers, []
    for index, example in enumerate(examples):
        answer = torch.tensor(list(example.answer), device=full[index].device)
        exits = torch.stack([branches[layer * len(examples) + index] for layer in range(depth)])
        status = torch.stack([each[index] for each in statuses])
        found.append(_labelled(full[index], exits, answer, status))
    return found


def _labelled(full: Tensor, exits: Tensor, answer: Tensor, status: Tensor) -> Collected:
    """The paper's rule on ``full [A, V]`` and ``exits [L, A, V]``."""
    loss_full = float(F.cross_entropy(full, answer))
    agreement = (exits.argmax(-1) == full.argmax(-1)).float().mean(-1)
    loss_exit = torch.stack([F.cross_entropy(each, answer) for each in exits])
    label = (agreement > AGREEMENT) & (loss_exit < LOSS_RATIO * loss_full)
    return Collected(status, label, agreement, loss_full, loss_exit)


def _embedded(
    model: ModelAdapter, layouts: Sequence[PromptLayout], examples: Sequence[Example]
) -> list[Tensor]:
    """Rows of each prompt and of its answer but the last token (it predicts nothing)."""
    pictured = [example.prompt.images for example in examples if example.prompt.images is not None]
    encoded = iter(model.encode_images(pictured))
    hidden = []
    for layout, example in zip(layouts, examples, strict=True):
        rows = next(encoded) if example.prompt.images is not None else []
        given = torch.tensor(list(example.answer)[:-1], dtype=torch.int64, device=model.device)
        hidden.append(torch.cat([model.embed(layout, rows), model.embed_tokens(given)]))
    return hidden


@dataclass(slots=True)
class _Run:
    """The full runs of some examples and their text-only branches, layer by layer."""

    model: ModelAdapter
    attention: AttentionBackend
    layouts: Sequence[PromptLayout]
    answers: Sequence[int]

    def __call__(self, hidden: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits per full run and per branch (layer by layer), statuses ``[B, 2d]`` per layer."""
        depth, count = self.model.decoder.num_layers, len(hidden)
        cache = self._cache(max(rows.shape[0] for rows in hidden))
        parts = [
            (
                Segment(-1 - index, rows.shape[0], layout.leaving, prefill=True),
                rows,
                self.model.positions(layout, 0, rows.shape[0]),
            )
            for index, (rows, layout) in enumerate(zip(hidden, self.layouts, strict=True))
        ]
        full = pack(parts)
        branches: PackedBatch | None = None
        statuses = []
        for layer in range(depth):
            if branches is not None:
                branches = self._layer(layer, branches, cache)
            full = self._layer(layer, full, cache)
            statuses.append(self._status(full))
            text, _ = full.drop_visual(range(count))
            branches = _join(branches, text, layer)
        assert branches is not None, "a decoder has at least one layer"
        return self._logits(full), self._logits(branches), statuses

    def _cache(self, rows: int) -> RunCache:
        shape, count = self.model.decoder, len(self.layouts)
        ledger = PageLedger((shape.num_layers + 1) * count, rows, shape.num_layers)
        return RunCache(ledger, shape.num_kv_heads, shape.head_dim, self.model.dtype)

    def _layer(self, layer: int, batch: PackedBatch, cache: RunCache) -> PackedBatch:
        rotary = self.model.rotary(batch.hidden, batch.positions)
        context = StepContext(layer, batch, cache, self.attention)
        return batch.with_hidden(self.model.run_layer(layer, batch.hidden, rotary, context))

    def _status(self, full: PackedBatch) -> Tensor:
        """Status of each question alone: the rows before its answer."""
        statuses = []
        for segment, start, layout in zip(full.segments, full.starts, self.layouts, strict=True):
            rows = slice(start, start + layout.rows)
            alone = replace(segment, rows=layout.rows)
            question = PackedBatch((alone,), full.hidden[rows], full.positions[..., rows])
            statuses.append(text_token_status(question, question.hidden, [0])[0])
        return torch.stack(statuses)

    def _logits(self, batch: PackedBatch) -> list[Tensor]:
        """Float32 logits of the rows that predict each segment's answer."""
        lengths = [self.answers[i % len(self.answers)] for i in range(len(batch.segments))]
        rows = [
            row
            for last, length in zip(batch.last_rows, lengths, strict=True)
            for row in range(last - length + 1, last + 1)
        ]
        index = torch.tensor(rows, device=batch.hidden.device)
        logits = self.model.head(batch.hidden.index_select(0, index)).float()
        return list(logits.split(lengths))


def _join(branches: PackedBatch | None, text: PackedBatch, layer: int) -> PackedBatch:
    """Add the branches that leave after ``layer``, each with a cache key of its own."""
    count = len(text.segments)
    segments = tuple(
        replace(segment, seq=layer * count + index) for index, segment in enumerate(text.segments)
    )
    if branches is None:
        return PackedBatch(segments, text.hidden, text.positions)
    return PackedBatch(
        (*branches.segments, *segments),
        torch.cat([branches.hidden, text.hidden]),
        torch.cat([branches.positions, text.positions], dim=-1),
    )
