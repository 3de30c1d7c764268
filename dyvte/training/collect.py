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
    model: ModelAdapter, examples: Iterable[Example], attention: AttentionBackend | None = None
) -> Iterator[Collected]:
    """Yield one ``Collected`` per example, in order. Raises PromptError for a bad one."""
    backend = attention or SdpaAttention()
    for example in examples:
        yield collect_one(model, example, backend)


@torch.inference_mode()
def collect_one(model: ModelAdapter, example: Example, attention: AttentionBackend) -> Collected:
    """Statuses and labels of one example at every layer."""
    layout = model.layout(example.prompt)
    hidden = _embedded(model, layout, example)
    run = _Run(model, attention, layout, len(example.answer))
    full, exits, status = run(hidden)
    answer = torch.tensor(list(example.answer), device=full.device)
    loss_full = F.cross_entropy(full, answer)
    agreement = (exits.argmax(-1) == full.argmax(-1)).float().mean(-1)
    loss_exit = torch.stack([F.cross_entropy(each, answer) for each in exits])
    label = (agreement > AGREEMENT) & (loss_exit < LOSS_RATIO * loss_full)
    return Collected(status, label, agreement, float(loss_full), loss_exit)


def _embedded(model: ModelAdapter, layout: PromptLayout, example: Example) -> Tensor:
    """Rows of the prompt and of the answer but its last token (nothing is predicted from it)."""
    images = [] if example.prompt.images is None else [example.prompt.images]
    rows = model.encode_images(images)
    hidden = model.embed(layout, rows[0] if rows else [])
    given = torch.tensor(list(example.answer)[:-1], dtype=torch.int64, device=model.device)
    return torch.cat([hidden, model.embed_tokens(given)])


@dataclass(slots=True)
class _Run:
    """The full run and its text-only branches, layer by layer."""

    model: ModelAdapter
    attention: AttentionBackend
    layout: PromptLayout
    answer: int

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[A, V]`` of the full run, ``[L, A, V]`` of the branches, ``[L, 2d]``."""
        depth = self.model.decoder.num_layers
        rows = hidden.shape[0]
        ledger = PageLedger((depth + 1) * depth, rows, depth)
        shape = self.model.decoder
        cache = RunCache(ledger, shape.num_kv_heads, shape.head_dim, self.model.dtype)
        positions = self.model.positions(self.layout, 0, rows)
        full = pack([(Segment(-1, rows, self.layout.spans, prefill=True), hidden, positions)])
        branches: PackedBatch | None = None
        statuses = []
        for layer in range(depth):
            if branches is not None:
                branches = self._layer(layer, branches, cache)
            full = self._layer(layer, full, cache)
            statuses.append(self._status(full))
            text, _ = full.drop_visual({0})
            branches = _join(branches, text, layer)
        assert branches is not None, "a decoder has at least one layer"
        return self._answers(full)[0], self._answers(branches), torch.stack(statuses)

    def _layer(self, layer: int, batch: PackedBatch, cache: RunCache) -> PackedBatch:
        rotary = self.model.rotary(batch.hidden, batch.positions)
        context = StepContext(layer, batch, cache, self.attention)
        return batch.with_hidden(self.model.run_layer(layer, batch.hidden, rotary, context))

    def _status(self, full: PackedBatch) -> Tensor:
        """Status of the question alone: the rows before the answer."""
        segment = replace(full.segments[0], rows=self.layout.rows)
        question = PackedBatch(
            (segment,), full.hidden[: segment.rows], full.positions[: segment.rows]
        )
        return text_token_status(question, question.hidden, [0])[0]

    def _answers(self, batch: PackedBatch) -> Tensor:
        """Logits ``[segments, A, V]`` (float32) of the rows that predict the answer."""
        rows = [row for last in batch.last_rows for row in range(last - self.answer + 1, last + 1)]
        index = torch.tensor(rows, device=batch.hidden.device)
        logits = self.model.head(batch.hidden.index_select(0, index)).float()
        return logits.view(len(batch.segments), self.answer, -1)


def _join(branches: PackedBatch | None, text: PackedBatch, layer: int) -> PackedBatch:
    """Add the branch that leaves after ``layer``; its key in the cache is the layer."""
    segment = replace(text.segments[0], seq=layer)
    if branches is None:
        return PackedBatch((segment,), text.hidden, text.positions)
    return PackedBatch(
        (*branches.segments, segment),
        torch.cat([branches.hidden, text.hidden]),
        torch.cat([branches.positions, text.positions], dim=-1),
    )
