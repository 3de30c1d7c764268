"""Decode steps and prefills beside what the machine can do, and what exit gates add to a prefill.

The floor of a decode step is the bytes it must read (decoder and head as they are held, keys and
values) over the fastest read; that of a prefill its multiply-adds, attention's upper triangle left
out, over the fastest product (``benchmarks.limits``). Limits and engine are measured in turn in
every round, and a ratio is taken within its round. Pictures are encoded beforehand. Gates never
fire here: all of them are asked in a prefill that keeps its images, which is the most they cost.
With --cpu times are those of the one thread that computes, which others on the machine lengthen
through caches and memory alone (but gates' share is of a wall clock's seconds).

    python -m benchmarks.floors --rounds 5 --out runs/floors.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import dyvte
from benchmarks.exits import conversation
from benchmarks.floor_report import PREFILL, STEP, Round, Share, Timing, figures, text
from benchmarks.limits import Clock, Probe
from benchmarks.machine import Origin, quiet_rounds
from benchmarks.model import PRESETS, ensure
from benchmarks.results import write
from benchmarks.weights import Case, step_bytes
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.exits.gate import INNER, GateBank
from dyvte.flops import DecoderShape
from dyvte.models.decoder import DecoderAdapter
from dyvte.prompt import Prompt

STEPS = 8
COMPACT = 64
NEVER = dyvte.ExitOptions(policy="gate", aggressiveness=1e-6)
OFF = dyvte.ExitOptions(policy="off")


@dataclass(frozen=True, slots=True)
class Gates:
    """A shape of gates; ``goal`` is the share of a prefill that they may take."""

    name: str
    goal: float
    inner: int
    dtype: torch.dtype


SHAPES = (
    Gates("compact (2d → 64 → 2, float32)", 0.01, COMPACT, torch.float32),
    Gates("the paper's (2d → 2048 → 2, float32)", 0.03, INNER, torch.float32),
    Gates("the paper's, stored in bf16", 0.03, INNER, torch.bfloat16),
)


@dataclass
class Bench:
    """One model, its prompts, and their pictures' rows."""

    model: dyvte.Model
    prompts: list[Prompt]
    steps: int = STEPS
    clock: Clock = time.perf_counter
    pictures: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        adapter = self.model.adapter
        assert isinstance(adapter, DecoderAdapter)
        self.adapter, self.shape = adapter, adapter.decoder
        self.rows = [adapter.layout(prompt).rows for prompt in self.prompts]
        shown = [prompt.images for prompt in self.prompts]
        self.pictures = [[] if each is None else adapter.encode_images([each])[0] for each in shown]

    def time(self, count: int) -> tuple[Timing, Timing]:
        """Prefill and decode step of the first ``count`` prompts together, without an exit."""
        core = self._started(count, OFF)
        prefill = self._step(core, count)
        step = statistics.median(self._step(core, count) for _ in range(self.steps))
        read = step_bytes(self.model, self.prompts[:count], Case("no exit", count))
        flops = sum(prefill_flops(self.shape, rows) for rows in self.rows[:count])
        return Timing(PREFILL, count, prefill, flops), Timing(STEP, count, step, read)

    def ask(self, gates: Gates) -> Share:
        """One prompt's prefill with all gates of a shape asked, and the seconds in them."""
        own, self.adapter.gates = self.adapter.gates, gates_of(self.shape, gates)
        try:
            core = self._started(1, NEVER)
            self._step(core, 1)
        finally:
            self.adapter.gates = own
        ran = core.last_step
        return Share(gates.name, gates.goal, ran.seconds, ran.gate_seconds)

    def _started(self, count: int, exits: dyvte.ExitOptions) -> EngineCore:
        """A core whose next step prefills the first ``count`` prompts together."""
        core = build_core(self.model, EngineConfig(max_num_seqs=count))
        sampling = dyvte.SamplingParams(max_tokens=self.steps + 2, temperature=0, ignore_eos=True)
        for index, prompt in enumerate(self.prompts[:count]):
            state = core.check(EngineRequest(f"{index}", prompt, sampling, exits))
            state.image_rows = self.pictures[index]
            core.add(state)
        return core

    def _step(self, core: EngineCore, count: int) -> float:
        """Seconds of one step, which must give every request a token."""
        began = self.clock()
        said = core.step()
        took = self.clock() - began
        if len(said) != count or any(each.error is not None for each in said):
            raise RuntimeError(f"{len(said)} of {count} requests got a token in a step")
        return took


def prefill_flops(shape: DecoderShape, rows: int) -> int:
    """What no program can do without: attention over the rows up to one's own, one head."""
    keys = rows * (rows + 1) // 2
    return shape.num_layers * (shape.linear(rows) + shape.attention(1, keys)) + shape.head(1)


def gates_of(shape: DecoderShape, gates: Gates) -> GateBank:
    """Gates of all layers but the last that find both ways equally likely."""
    layers, width = range(shape.num_layers - 1), 2 * shape.hidden_size
    w1 = {layer: torch.randn(gates.inner, width).to(gates.dtype) for layer in layers}
    w2 = {layer: torch.zeros(2, gates.inner, dtype=gates.dtype) for layer in layers}
    return GateBank(w1, w2)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench-small")
    add("--model", type=Path, help="a folder instead of a preset")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--dtype", default="float32")
    add("--sequences", nargs="+", type=int, default=[1, 8])
    add("--rounds", type=int, default=5)
    add("--busy", action="store_true", help="keep rounds during which others used the cores")
    add("--cpu", action="store_true", help="processor seconds of one thread; others may compute")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("runs/floors.json"))
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, bench: Bench) -> list[Round]:
    """All rounds; one before them warms up."""
    adapter = bench.adapter
    size = adapter.decoder_bytes()
    probe = Probe(bench.shape, adapter.dtype, size, bench.rows[0], bench.clock)

    def one() -> Round:
        limits = probe.measure()
        timings = [each for count in args.sequences for each in bench.time(count)]
        return Round(limits, timings, [bench.ask(gates) for gates in SHAPES])

    one()
    return quiet_rounds(one, args.rounds, busy=args.busy or args.cpu)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    args = parse(argv)
    own = sys.argv[1:] if argv is None else argv
    if args.cpu:
        torch.set_num_threads(1)
    origin = Origin.here(["python", "-m", "benchmarks.floors", *own], args.seed, "cpu").as_json()
    folder = args.model or ensure(args.preset, args.models / args.preset)
    torch.manual_seed(args.seed)
    model = dyvte.load(folder, device="cpu", dtype=args.dtype)
    talks = [conversation(args.seed + k) for k in range(max(args.sequences))]
    clock = time.thread_time if args.cpu else time.perf_counter
    bench = Bench(model, [model.prompt(messages) for messages in talks], clock=clock)
    rounds = measure(args, bench)
    what = f"{folder.name} in {args.dtype}{', processor time' if args.cpu else ''}"
    found = text(rounds, origin, what, bench.rows[0])
    print(found)
    write(args.out, {"provenance": origin, "model": str(folder)} | figures(rounds), found)


if __name__ == "__main__":
    main()
