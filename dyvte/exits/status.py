"""Text-token status: what a gate sees of a sequence after a layer.

``[mean of the text tokens after the last visual span, without the last token ; the last token]``
on the raw residual stream (arXiv 2411.19628 and its published code). Where nothing lies between
the last image and the last token, the mean is over all text tokens but the last; where there are
none either, it is the last token itself.

Shapes: T rows, d hidden size, S sequences asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyvte.packing import PackedBatch, Segment
from dyvte.transfer import upload


def text_token_status(batch: PackedBatch, hidden: Tensor, indices: Sequence[int]) -> Tensor:
    """Status ``[S, 2d]`` (float32) of the segments ``indices``; ``hidden`` is ``[T, d]``."""
    starts = batch.starts
    return torch.stack([_status(batch.segments[i], starts[i], hidden) for i in indices])


def _status(segment: Segment, start: int, hidden: Tensor) -> Tensor:
    last = start + segment.rows - 1
    after = start + (segment.spans[-1].stop if segment.spans else 0)
    if after < last:
        context = hidden[after:last]
    else:
        text = [start + row for row in segment.text_rows()][:-1] or [last]
        context = hidden.index_select(0, upload(text, torch.int64, hidden.device))
    return torch.cat([context.float().mean(0), hidden[last].float()])
