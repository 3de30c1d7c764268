"""What an exit is worth in time and memory, beside what it is worth in FLOPs.

Prefill time, decode time per token and KV bytes with no exit, an exit in the middle and an early
one; one sequence and several packed; each type. The cases of a round run one after another
(A B C A B C), so that a machine that slows down slows all of them; ratios are medians over
rounds. "Realised" is the share of the FLOPs saving that shows as prefill time:
(1 − time ratio) / (1 − FLOPs ratio). With --hf, `transformers`' own generate runs in the same
rounds on the same inputs.

    python -m benchmarks.exits --preset bench-small --hf
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

import dyvte
from benchmarks.exit_report import HEAD, NONE, Row, Sample, line, row, text
from benchmarks.hf import HfModel
from benchmarks.machine import Origin, quiet_rounds
from benchmarks.model import IMAGE_SIZE, PRESETS, ensure
from benchmarks.results import write
from dyvte.bench.workload import QUESTION_WORDS, WORDS, noise
from dyvte.prompt import Message

SPREAD = 0.05


def conversation(seed: int) -> list[Message]:
    """One picture and a question of ``QUESTION_WORDS`` words."""
    draw = random.Random(seed)
    picture = Image.open(BytesIO(noise(draw, IMAGE_SIZE)))
    question = " ".join(draw.choices(WORDS, k=QUESTION_WORDS)) + "?"
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def exit_cases(num_layers: int, layers: Sequence[int] | None) -> dict[str, dyvte.ExitOptions]:
    """No exit, then one after each of ``layers``: the first half, the first third of all sees it.

    A case is called by how many layers see the image.
    """
    chosen = layers or (num_layers // 2 - 1, num_layers // 3 - 1)
    cases = {NONE: dyvte.ExitOptions(policy="off")}
    for layer in chosen:
        options = dyvte.ExitOptions(policy="fixed", exit_layer=layer)
        cases[f"{layer + 1} of {num_layers}"] = options
    return cases


def ours(
    model: dyvte.Model, prompts: Sequence[dyvte.Prompt], new: int, exits: dyvte.ExitOptions
) -> Sample:
    """Run ``prompts`` as one packed batch. Raises RuntimeError if it was not one."""
    sampling = dyvte.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    stats = [result.stats for result in dyvte.generate(model, prompts, sampling, exits)]
    prefills = [each.timings.prefill for each in stats]
    if max(prefills) > (1 + SPREAD) * min(prefills):
        raise RuntimeError(f"the prompts were not prefilled together: {prefills} s")
    return Sample(
        prefill=max(prefills),
        step=max(each.timings.decode for each in stats) / (new - 1),
        prefill_flops=sum(each.flops.prefill for each in stats),
        kv_bytes=sum(each.kv_bytes for each in stats),
    )


def measure(
    cases: dict[str, Callable[[], Sample]], rounds: int, busy: bool
) -> list[dict[str, Sample]]:
    """Run every case once to warm up, then ``rounds`` rounds of all; disturbed rounds repeat."""

    def one() -> dict[str, Sample]:
        return {name: run() for name, run in cases.items()}

    one()
    return quiet_rounds(one, rounds, busy)


def compare(args: argparse.Namespace, folder: Path, dtype: str) -> list[Row]:
    """All numbers of sequences for one type."""
    model = dyvte.load(folder, device=args.device, dtype=dtype)
    peer = HfModel(folder, dtype, args.device) if args.hf else None
    exits = exit_cases(model.adapter.decoder.num_layers, args.exit_layers)
    rows = []
    for count in args.sequences:
        talks = [conversation(args.seed + k) for k in range(count)]
        prompts = [model.prompt(messages) for messages in talks]
        cases: dict[str, Callable[[], Sample]] = {
            name: partial(ours, model, prompts, args.new, options)
            for name, options in exits.items()
        }
        if peer is not None:
            cases["transformers"] = _peer(peer, talks, args.new)
        rounds = measure(cases, args.rounds, args.busy)
        rows += [row(dtype, count, name, rounds) for name in cases]
        print("\n".join(line(each) for each in rows[-len(cases) :]), flush=True)
    return rows


def _peer(peer: HfModel, talks: Sequence[Sequence[Message]], new: int) -> Callable[[], Sample]:
    inputs = peer.inputs(talks)

    def run() -> Sample:
        times = peer.time(inputs, new)
        return Sample(prefill=times.prefill, step=times.step)

    return run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exits", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench-small")
    add("--model", type=Path, help="a folder instead of a preset")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--dtypes", nargs="+", default=["bfloat16", "float32"])
    add("--sequences", nargs="+", type=int, default=[1, 8])
    add(
        "--exit-layers",
        nargs="+",
        type=int,
        help="counted from 0; default: the last of the first half and of the first third",
    )
    add("--new", type=int, default=16, help="tokens generated")
    add("--rounds", type=int, default=5)
    add("--hf", action="store_true", help="transformers' generate as one more case")
    add("--busy", action="store_true", help="keep rounds during which others used the cores")
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the rows with their provenance, and a table")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    command = ["python", "-m", "benchmarks.exits", *(sys.argv[1:] if argv is None else argv)]
    origin = Origin.here(command, args.seed, args.device)
    folder = args.model or ensure(args.preset, args.models / args.preset)
    print(f"{origin}\n{'model':<8} {folder}\n\n{HEAD}", flush=True)
    rows = [each for dtype in args.dtypes for each in compare(args, folder, dtype)]
    if args.json:
        figures = {
            "provenance": origin.as_json(),
            "model": str(folder),
            "rows": [asdict(row) for row in rows],
        }
        write(args.json, figures, text(rows, origin.as_json(), folder.name))


if __name__ == "__main__":
    main()
