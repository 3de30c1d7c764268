"""What a gate sees: the mean of the text behind the image, and the last token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyvte.exits.status import text_token_status
from dyvte.packing import PackedBatch, Part, Segment, pack
from dyvte.prompt import VisualSpan

WIDTH = 5


def batch_of(*several: tuple[int, list[tuple[int, int]]]) -> PackedBatch:
    """Sequences of (rows, spans) with random rows."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    for seq, (rows, spans) in enumerate(several):
        segment = Segment(seq, rows, tuple(VisualSpan(*span) for span in spans), prefill=True)
        parts.append(Part(segment, torch.randn(rows, WIDTH, generator=draw), torch.arange(rows)))
    return pack(parts)


def status(rows: int, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """The two halves, and the rows they come from."""
    batch = batch_of((rows, spans))
    [both] = text_token_status(batch, batch.hidden, [0])
    return both[:WIDTH], both[WIDTH:], batch.hidden


CASES = {
    "text after one image": (9, [(2, 5)], [5, 6, 7]),
    "text after the last of two": (12, [(1, 3), (5, 8)], [8, 9, 10]),
    "one token after the image: all text but the last": (6, [(2, 5)], [0, 1]),
    "nothing after the image: all text but the last": (8, [(1, 3), (4, 7)], [0, 3]),
    "one token in all: that token": (4, [(0, 3)], [3]),
    "no image": (4, [], [0, 1, 2]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_mean_and_last(case: tuple[int, list[tuple[int, int]], list[int]]) -> None:
    rows, spans, meant = case
    mean, last, hidden = status(rows, spans)
    torch.testing.assert_close(mean, hidden[meant].mean(0))
    torch.testing.assert_close(last, hidden[-1])


def test_each_sequence_of_a_batch_has_its_own() -> None:
    several = [(9, [(2, 5)]), (3, []), (12, [(1, 3), (5, 8)])]
    batch = batch_of(*several)
    both = text_token_status(batch, batch.hidden, [0, 2])
    for index, got in zip((0, 2), both, strict=True):
        start, segment = batch.starts[index], batch.segments[index]
        rows = batch.hidden[start : start + segment.rows]
        after = segment.spans[-1].stop
        torch.testing.assert_close(got, torch.cat([rows[after:-1].mean(0), rows[-1]]))


def test_sixteen_bit_rows_are_averaged_in_float32() -> None:
    batch = batch_of((400, [(0, 3)]))
    hidden = batch.hidden.bfloat16()
    [both] = text_token_status(batch, hidden, [0])
    assert both.dtype is torch.float32
    torch.testing.assert_close(both[:WIDTH], hidden[3:-1].float().mean(0), atol=1e-6, rtol=1e-5)
