"""The full run of some prompts, with what is collected on the way.

Rows before the first image never see it, so an exit cannot change them: only the text behind it
(``tails``) has to run again without the image, over the cached keys of the rows before.

Shapes: B prompts, T rows, N tail rows of all prompts, d hidden size, F signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend, SdpaAttention, StepContext
from dyvte.exits.signals import read_signals
from dyvte.exits.status import text_token_status
from dyvte.exits.view import LayerView, Queries
from dyvte.kv_cache import KVCache, RunCache
from dyvte.models.adapter import ModelAdapter, PromptLayout
from dyvte.packing import PackedBatch, Segment, pack
from dyvte.pages import PageLedger


@dataclass(slots=True)
class Prefilled:
    """Prompts after their full run; prompt i is sequence i of ``cache``.

    Per collected layer: ``tails`` has one ``[n_i, d]`` per prompt, ``statuses`` ``[B, 2d]``,
    ``signals`` ``[B, F]``. ``last [B, d]`` are the last rows after the last layer.
    ``deepstack[i]`` is what the model adds to the tail of prompt i, None if that is text alone.
    """

    layouts: Sequence[PromptLayout]
    cache: KVCache
    last: Tensor
    deepstack: list[Tensor | None]
    tails: list[list[Tensor]] = field(default_factory=list)
    statuses: list[Tensor] = field(default_factory=list)
    signals: list[Tensor] = field(default_factory=list)


def prefill(
    model: ModelAdapter,
    layouts: Sequence[PromptLayout],
    image_rows: Sequence[Sequence[Tensor]],
    layers: Sequence[int],
    signals: Sequence[str],
    room: int,
) -> Prefilled:
    """Run prompts whole, their images encoded; the cache has room for ``room`` more rows."""
    cache = new_cache(model, len(layouts), max(layout.rows for layout in layouts) + room)
    batch = pack(
        [
            model.part(index, layout, rows)
            for index, (layout, rows) in enumerate(zip(layouts, image_rows, strict=True))
        ]
    )
    chosen = [
        torch.tensor(rows, device=batch.hidden.device) + start
        for rows, start in zip(map(tail_rows, layouts), batch.starts, strict=True)
    ]
    run = Prefilled(layouts, cache, batch.hidden, _deepstack(batch.deepstack, layouts, chosen))
    queries = Queries() if signals else None
    before = batch.hidden
    for layer, after in run_layers(model, batch, cache, SdpaAttention(), queries):
        if layer in layers:
            run.tails.append([after.hidden[rows] for rows in chosen])
            run.statuses.append(text_token_status(after, after.hidden, range(len(layouts))))
            views = [LayerView(layer, after, i, cache, before, queries) for i in range(len(chosen))]
            run.signals.append(torch.stack([_read(view, signals) for view in views]))
        before = after.hidden
    run.last = before[torch.tensor(batch.last_rows, device=before.device)]
    return run


def _deepstack(
    levels: Tensor | None, layouts: Sequence[PromptLayout], tails: Sequence[Tensor]
) -> list[Tensor | None]:
    """Of the tails whose last row is visual."""
    return [
        None if levels is None or layout.leaving == layout.spans else levels[rows]
        for layout, rows in zip(layouts, tails, strict=True)
    ]


def _read(view: LayerView, names: Sequence[str]) -> Tensor:
    return read_signals(view, names) if names else view.hidden.new_zeros(0, dtype=torch.float32)


def tail_rows(layout: PromptLayout) -> list[int]:
    """Rows of a prompt that an exit leaves behind, from the first image on; the last is one."""
    rows = Segment(0, layout.rows, layout.leaving).text_rows()
    return [row for row in rows if row >= prefix_rows(layout)]


def prefix_rows(layout: PromptLayout) -> int:
    """Rows before the first image: no exit changes them."""
    return layout.leaving[0].start if layout.leaving else layout.rows - 1


def run_layers(
    model: ModelAdapter,
    batch: PackedBatch,
    cache: KVCache,
    attention: AttentionBackend,
    tap: Queries | None = None,
) -> Iterator[tuple[int, PackedBatch]]:
    """Yield ``(layer, rows after it)`` for every layer; nothing leaves. Appends to ``cache``."""
    rotary = model.rotary(batch.hidden, batch.positions)
    for layer in range(model.decoder.num_layers):
        context = StepContext(layer, batch, cache, attention, tap)
        batch = batch.after(layer, model.run_layer(layer, batch.hidden, rotary, context))
        yield layer, batch


def new_cache(model: ModelAdapter, sequences: int, rows: int) -> RunCache:
    """A cache of exactly so many sequences, one run of ``rows`` rows each and layer."""
    shape = model.decoder
    ledger = PageLedger(sequences * shape.num_layers, rows, shape.num_layers)
    return RunCache(ledger, shape.num_kv_heads, shape.head_dim, model.dtype)
