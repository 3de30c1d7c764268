"""Decode steps and prefills in each form of the weights, beside what this machine can do at most.

The floor of a decode step is the bytes that it must read (weights of decoder and head, keys and
values) over the memory bandwidth that a sum over a large tensor reaches; that of a prefill its
FLOPs over the rate of the decoder's own matrix products at as many rows as a prompt has. Forms run
one after another in every round; the best of all rounds counts, since whatever else runs on the
machine only ever adds. With --cpu the time is that of the one thread that computes, which
processes beside it lengthen through the caches alone.

    python -m benchmarks.weights --preset bench-small --dtype float32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import dyvte
from benchmarks.exits import conversation
from benchmarks.machine import Origin, Strangers
from benchmarks.model import PRESETS, ensure
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.models.decoder import DecoderAdapter

STEPS = 6
AT_ONCE = 100_000  # rows of a step: a prefill is one


@dataclass(frozen=True, slots=True)
class Row:
    """One form at one number of sequences: milliseconds, and times the floor."""

    weights: str
    what: str
    sequences: int
    ms: float
    floor_ms: float

    def __str__(self) -> str:
        return (
            f"{self.what:<18} {self.sequences:>4}  {self.weights:<12} {self.ms:>8.1f} ms "
            f"{self.floor_ms:>8.1f} ms {self.ms / self.floor_ms:>6.2f}"
        )


@dataclass(frozen=True, slots=True)
class Case:
    """What runs: ``exit_layer`` None is no exit."""

    what: str
    sequences: int
    exit_layer: int | None = None

    @property
    def exits(self) -> dyvte.ExitOptions:
        """As a request says it."""
        if self.exit_layer is None:
            return dyvte.ExitOptions(policy="off")
        return dyvte.ExitOptions(policy="fixed", exit_layer=self.exit_layer)


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Of one call."""
    began = clock()
    work()
    return clock() - began


def bandwidth(clock: Callable[[], float]) -> float:
    """Bytes a second that a sum over 512 MiB reads."""
    block = torch.ones(2**27)
    return 2**29 / min(seconds(block.sum, clock) for _ in range(5))


def matrix_rate(adapter: DecoderAdapter, rows: int, clock: Callable[[], float]) -> float:
    """FLOPs a second of the up projection at ``rows`` rows."""
    shape = adapter.decoder
    hidden = torch.randn(rows, shape.hidden_size).to(adapter.dtype)
    weight = torch.randn(shape.intermediate_size, shape.hidden_size).to(adapter.dtype)
    best = min(seconds(lambda: torch.nn.functional.linear(hidden, weight), clock) for _ in range(7))
    return 2 * rows * shape.hidden_size * shape.intermediate_size / best


def started(model: dyvte.Model, prompts: Sequence[dyvte.Prompt], case: Case) -> EngineCore:
    """A core whose next step prefills all prompts; their pictures are encoded already."""
    core = build_core(model, EngineConfig(max_step_rows=AT_ONCE))
    sampling = dyvte.SamplingParams(max_tokens=2 * STEPS, temperature=0, ignore_eos=True)
    for index, prompt in enumerate(prompts):
        state = core.check(EngineRequest(f"{index}", prompt, sampling, case.exits))
        if prompt.images is not None:
            (state.image_rows,) = model.adapter.encode_images([prompt.images])
        core.add(state)
    return core


def once(
    model: dyvte.Model, prompts: Sequence[dyvte.Prompt], case: Case, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds of the prefill and of the fastest decode step."""
    core = started(model, prompts, case)
    prefill = seconds(core.step, clock)
    steps = [seconds(core.step, clock) for _ in range(STEPS)]
    return prefill, min(steps)


def step_bytes(model: dyvte.Model, prompts: Sequence[dyvte.Prompt], case: Case) -> int:
    """What a decode step reads: decoder and head once, every sequence's keys and values."""
    adapter = model.adapter
    assert isinstance(adapter, DecoderAdapter)
    shape = adapter.decoder
    kept = (case.exit_layer + 1) if case.exit_layer is not None else shape.num_layers
    held = 0
    for prompt in prompts:
        layout = adapter.layout(prompt)
        text = layout.rows - layout.visual_rows
        held += kept * layout.rows + (shape.num_layers - kept) * text
    row = 2 * shape.num_kv_heads * shape.head_dim * adapter.dtype.itemsize
    return adapter.decoder_bytes() + held * row


def compare(args: argparse.Namespace, folder: Path) -> list[Row]:
    """All cases in all forms."""
    clock = time.thread_time if args.cpu else time.perf_counter
    models = {
        form: dyvte.load(folder, device="cpu", dtype=args.dtype, weights=form)
        for form in args.weights
    }
    one = next(iter(models.values()))
    depth = one.adapter.decoder.num_layers
    talks = [one.prompt(conversation(args.seed + k)) for k in range(max(args.sequences))]
    cases = [Case("no exit", count) for count in args.sequences]
    cases += [Case(f"exit after {depth // 2}", count, depth // 2) for count in args.sequences]
    reach = bandwidth(clock)
    assert isinstance(one.adapter, DecoderAdapter)
    rate = matrix_rate(one.adapter, one.adapter.layout(talks[0]).rows, clock)
    print(f"memory {reach / 1e9:.1f} GB/s, matrix products {rate / 1e9:.0f} GFLOP/s\n", flush=True)
    rows: list[Row] = []
    for case in cases:
        prompts = talks[: case.sequences]
        found: dict[str, list[tuple[float, float]]] = {form: [] for form in models}
        strangers = Strangers()
        for _ in range(args.rounds + 1):
            for form, model in models.items():
                found[form].append(once(model, prompts, case, clock))
        flops = sum(
            each.stats.flops.prefill
            for each in dyvte.generate(
                one, prompts, dyvte.SamplingParams(max_tokens=1, temperature=0), case.exits
            )
        )
        for form, samples in found.items():
            best = [1000 * min(each[i] for each in samples[1:]) for i in (0, 1)]
            floors = (flops / rate, step_bytes(models[form], prompts, case) / reach)
            for name, ms, floor in zip(("prefill", "decode"), best, floors, strict=True):
                what = f"{name}, {case.what}"
                rows.append(Row(form, what, case.sequences, ms, 1000 * floor))
                print(rows[-1], flush=True)
        print(f"  others used {strangers.cores():.2f} cores", flush=True)
    return rows


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench-small")
    add("--model", type=Path, help="a folder instead of a preset")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--dtype", default="auto")
    add("--weights", nargs="+", default=["plain", "auto", "int8"])
    add("--sequences", nargs="+", type=int, default=[1, 8, 32])
    add("--rounds", type=int, default=3)
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--cpu", action="store_true", help="processor seconds of one thread")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the rows with their provenance")
    return parser.parse_args(argv)


def main() -> None:
    """Measure and print."""
    args = parse()
    if args.cpu or args.threads:
        torch.set_num_threads(1 if args.cpu else args.threads)
    origin = Origin.here(["python", "-m", "benchmarks.weights", *sys.argv[1:]], args.seed, "cpu")
    folder = args.model or ensure(args.preset, args.models / args.preset)
    print(f"{origin}\n{'model':<8} {folder}\n", flush=True)
    rows = compare(args, folder)
    if args.json:
        figures = {
            "provenance": origin.as_json(),
            "model": str(folder),
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
