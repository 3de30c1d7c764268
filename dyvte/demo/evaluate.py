"""How well a demo model folder answers questions about pictures it never saw.

Owns the measurement: exact answers by kind, without an exit and with the exit forced after each
layer. Pictures go through the folder's own image processor. Decoding is greedy; it is graded in
one pass per picture (see `student.graded`), in float32 on the folder's own weights.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from dyvte.demo.dataset import asked_scenes
from dyvte.demo.lanes import IGNORE, Lanes, Packer, prompt_prefix
from dyvte.demo.student import graded, text_states, visual_rows, word_table

_BATCH = 20
_LANES = 3


@dataclass(frozen=True, slots=True)
class Result:
    """Share of exact answers per exit layer ("none" without exit) and kind ("all" over all)."""

    folder: str
    pictures: int
    questions: dict[str, int]
    accuracy: dict[str, dict[str, float]]


def _batches(
    processor: LlavaProcessor, pictures: int, split: str, questions: int
) -> Iterator[tuple[torch.Tensor, Lanes]]:
    scenes = list(range(0, pictures, _BATCH))
    prefix = prompt_prefix(processor.tokenizer)
    for skip in scenes:
        part = list(asked_scenes(min(_BATCH, pictures - skip), split, questions, skip))
        packer = Packer(processor.tokenizer, len(part), _LANES, prefix)
        for i, (_, _, asked) in enumerate(part):
            for question in asked:
                packer.add(i, question)
        images = [picture for picture, _, _ in part]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        yield pixels, packer.lanes()


def _measure(
    model: LlavaForConditionalGeneration,
    batches: Iterable[tuple[torch.Tensor, Lanes]],
    exits: list[int | None],
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    hits: dict[str, dict[str, int]] = {_name(e): defaultdict(int) for e in exits}
    counts: dict[str, int] = defaultdict(int)
    depth = model.config.text_config.num_hidden_layers
    for pixels, lanes in batches:
        rows = visual_rows(model, pixels)
        for _, _, _, kind in lanes.kinds:
            counts[kind] += 1
            counts["all"] += 1
        for exit_layer in exits:
            states = text_states(model, rows, lanes, depth, exit_layer)
            logits = states[lanes.targets != IGNORE] @ word_table(model).T
            for kind, right in graded(lanes, logits):
                hits[_name(exit_layer)][kind] += right
                hits[_name(exit_layer)]["all"] += right
    shares = {e: {k: by_kind[k] / counts[k] for k in sorted(counts)} for e, by_kind in hits.items()}
    return shares, dict(counts)


def _name(exit_layer: int | None) -> str:
    return "none" if exit_layer is None else str(exit_layer)


@torch.inference_mode()
def evaluate(
    folder: Path,
    pictures: int = 2000,
    split: str = "test",
    questions: int = 8,
    exits: bool = True,
    report: Path | None = None,
) -> Result:
    """Measure `folder` on the first pictures of `split`; `report` gets the result as JSON.

    `exits` also forces a visual exit after every layer but the last, one at a time.
    """
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    depth = model.config.text_config.num_hidden_layers
    layers: list[int | None] = [None, *range(depth - 1)] if exits else [None]
    batches = _batches(processor, pictures, split, questions)
    accuracy, counts = _measure(model, batches, layers)
    result = Result(str(folder), pictures, counts, accuracy)
    if report is not None:
        report.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def show(result: Result, console: Console | None = None) -> None:
    """Print a result: a row per kind, a column per exit layer."""
    table = Table(title=f"{result.pictures} unseen pictures, exact answers in %, by exit layer")
    table.add_column("kind")
    table.add_column("questions", justify="right")
    for name in result.accuracy:
        table.add_column(name, justify="right")
    for kind in sorted(result.questions, key=lambda k: (k == "all", k)):
        cells = (f"{100 * shares[kind]:.1f}" for shares in result.accuracy.values())
        table.add_row(kind, str(result.questions[kind]), *cells)
    (console or Console()).print(table)
