"""Does ``max_risk`` hold? The demo model's gates, calibrated many times over and tested apart.

Draws independent calibration sets (fresh scenes each, one question a picture), lets each choose
an aggressiveness for 0.5, 1, 2 and 5 %, and counts how often what that setting changes on a large
test set exceeds the promise, against the 5 % of sets that may. With --shift the same choices are
tested on pictures of another kind, where no promise was made.

Every part that is done is one line of --out; the same command goes on where it was stopped.

    python -m benchmarks.calibration_holds --out runs/holds.jsonl --shift background size
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dyvte
from benchmarks.machine import Origin
from benchmarks.promise import Counts, Kept, kept
from dyvte.demo.export import Export, drawn
from dyvte.demo.shift import SHIFTS
from dyvte.exits.calibration import grid
from dyvte.flops import gate_flops
from dyvte.models.registry import find
from dyvte.training.collect import Collected, Example, Plan, collect
from dyvte.training.fingerprint import file_digest, model_digest
from dyvte.training.replay import leaves

RISKS = (0.005, 0.01, 0.02, 0.05)
# Scenes that nothing else in this project draws: behind those of calibration and of testing.
FIRST = 5_000_000
PLAN = Plan(paper=False, consistent=True, max_tokens=48)


@dataclass(frozen=True, slots=True)
class Part:
    """``samples`` scenes of a split from number ``skip`` on; ``name`` is its key in the file."""

    name: str
    split: str
    skip: int
    samples: int
    shift: str | None = None


def parts(args: argparse.Namespace) -> Iterator[Part]:
    """The test set first, so that a report can be had early; then sets, then shifts."""
    for kind in (None, *args.shift):
        for at in range(0, args.test, args.chunk):
            count = min(args.chunk, args.test - at)
            yield Part(f"{kind or 'test'}-{at}", "test", FIRST + at, count, kind)
        if kind is None:
            for number in range(args.sets):
                yield Part(f"set-{number}", "calibration", FIRST + number * args.size, args.size)


def main(argv: Sequence[str]) -> int:
    """Run what is left, print the report, write it beside --out."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    done = _begin(args)
    if not args.report:
        left = [part for part in parts(args) if part.name not in done]
        with args.out.open("a") as file:
            for name, counts in _worked(args, left):
                file.write(json.dumps({"part": name, **asdict(counts)}) + "\n")
                file.flush()
                done[name] = counts
                print(f"{name}: {len(done)} parts done", file=sys.stderr, flush=True)
    _report(args, argv, done)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.calibration_holds", description=__doc__)
    add = parser.add_argument
    add("--model", default="demo")
    add("--gates", type=Path, help="gates kept apart from the model")
    add("--out", type=Path, required=True, metavar="FILE.jsonl", help="what is done so far")
    add("--sets", type=int, default=200)
    add("--size", type=int, default=600, help="samples in a calibration set")
    add("--test", type=int, default=10_000, help="samples in the test set, and in each shifted one")
    add("--shift", nargs="*", choices=tuple(SHIFTS), default=[])
    add("--chunk", type=int, default=500, help="test samples in one part")
    add("--batch", type=int, default=16)
    add("--device", default="cpu")
    add("--workers", type=int, default=2, help="processes of one thread")
    add("--report", action="store_true", help="only report what is done")
    return parser.parse_args(argv)


def _begin(args: argparse.Namespace) -> dict[str, Counts]:
    """Counts by part, of an earlier run with the same model, gates and sizes."""
    folder = find(args.model)
    gates = (args.gates or folder / "gates") / "gates.safetensors"
    head = {
        "model": model_digest(folder),
        "gates": file_digest(gates),
        "size": args.size,
        "chunk": args.chunk,
        "settings": len(grid()),
    }
    if not args.out.exists():
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(head) + "\n")
        return {}
    whole, _, torn = args.out.read_text().rpartition("\n")
    if torn:  # killed while writing
        args.out.write_text(whole + "\n")
    first, *lines = map(json.loads, whole.splitlines())
    if first != head:
        raise SystemExit(f"{args.out} is of another model or other sizes; give another --out")
    return {line.pop("part"): Counts(**line) for line in lines}


def _worked(args: argparse.Namespace, left: Sequence[Part]) -> Iterator[tuple[str, Counts]]:
    how = (args.model, args.gates, args.device, args.batch)
    tasks = [(part, *how) for part in left]
    if args.workers == 1:
        yield from map(_work, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        yield from pool.imap_unordered(_work, tasks)


def _work(task: tuple[Part, str, Path | None, str, int]) -> tuple[str, Counts]:
    part, name, gates, device, batch = task
    torch.set_num_threads(1)
    model = _model(name, gates, device)
    assert model.gates is not None, "this is about gates"
    # No other layer can be an exit, and each one costs a branch.
    plan = replace(PLAN, layers=tuple(sorted(model.gates.layers)))
    return part.name, count(model, collect(model.adapter, _examples(model, part), plan, batch))


@cache
def _model(name: str, gates: Path | None, device: str) -> dyvte.Model:
    return dyvte.load(name, gates=gates, device=device, dtype="float32")


def _examples(model: dyvte.Model, part: Part) -> Iterator[Example]:
    export = Export(part.split, part.samples, part.skip, shift=part.shift)
    for _, picture, ((question,),) in drawn(export):
        text = {"type": "text", "text": question.text}
        content = [{"type": "image", "image": picture}, text]
        yield Example(model.prompt([{"role": "user", "content": content}]))


def count(model: dyvte.Model, samples: Iterator[Collected]) -> Counts:
    """Replay the gates over the grid, sample by sample: nothing is kept of one but counts."""
    gates, shape, settings = model.gates, model.adapter.decoder, grid()
    assert gates is not None, "this is about gates"
    changed = np.zeros(len(settings), dtype=np.int64)
    saved = np.zeros(len(settings))
    savings: dict[tuple[int, int], NDArray[np.float64]] = {}
    total = 0
    for sample in samples:
        total += 1
        assert sample.own is not None, "the plan asks for it"
        margins = np.full((1, shape.num_layers), np.nan, dtype=np.float32)
        unchanged = np.ones(shape.num_layers + 1, dtype=np.bool_)
        for at, layer in enumerate(sorted(gates.layers)):
            keep, leave = gates.logits(layer, sample.status[at][None])[0].cpu()
            margins[0, layer] = float(leave - keep)
            unchanged[layer] = bool(sample.own.consistent[at])
        columns = leaves(margins, settings)[:, 0]
        changed += ~unchanged[columns]
        rows = sample.text_rows, sample.visual_rows
        if rows not in savings:
            savings[rows] = _saved(model, *rows)
        saved += savings[rows][columns]
    return Counts(total, changed.tolist(), (saved / max(1, total)).tolist())


def _saved(model: dyvte.Model, text: int, visual: int) -> NDArray[np.float64]:
    """Prefill saving after each layer, the gates' own cost counted; the last entry: no exit."""
    gates, shape = model.gates, model.adapter.decoder
    assert gates is not None, "this is about gates"
    full = shape.prefill([text + visual] * shape.num_layers)
    found = []
    for layer in (*range(shape.num_layers), None):
        kept_layers = shape.num_layers if layer is None else layer + 1
        rows = [text + visual] * kept_layers + [text] * (shape.num_layers - kept_layers)
        asked = [each for each in gates.layers if each < kept_layers]
        own = sum(gate_flops(gates.hidden_size, gates.inner(each)) for each in asked)
        found.append(1.0 - (shape.prefill(rows) + own) / full)
    return np.array(found)


def _report(args: argparse.Namespace, argv: Sequence[str], done: dict[str, Counts]) -> None:
    """A table for people; the figures with their origin beside --out."""
    sets = [counts for name, counts in done.items() if name.startswith("set-")]
    figures: dict[str, Any] = {}
    for kind in ("test", *args.shift):
        tested = [counts for name, counts in done.items() if name.startswith(f"{kind}-")]
        if not sets or not tested:
            print(f"{kind}: {len(sets)} sets and {len(tested)} test parts so far")
            continue
        test = Counts.joined(tested)
        found = [kept(sets, test, risk) for risk in RISKS]
        print(f"{kind}: {len(sets)} sets of {args.size}, {test.samples} test samples")
        print(table(found))
        figures[kind] = {"samples": test.samples, "promises": [asdict(each) for each in found]}
    origin = Origin.here(["benchmarks.calibration_holds", *argv], FIRST, args.device).as_json()
    text = json.dumps({"provenance": origin, "figures": figures}, indent=1)
    args.out.with_suffix(".json").write_text(text + "\n")


def table(found: Sequence[Kept]) -> str:
    """Markdown, one line a promise."""
    heads = ("promise", "exceeded", "may", "clearly", "mean risk", "worst", "saved", "no exit")
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    for each in found:
        cells = (
            f"{each.risk:.1%}",
            f"{each.exceeded} of {each.sets}",
            f"{each.allowed}",
            f"{each.clearly}",
            f"{each.mean_realised:.2%}",
            f"{each.worst_realised:.2%}",
            f"{each.mean_saved:.1%}",
            f"{each.without_exit}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
