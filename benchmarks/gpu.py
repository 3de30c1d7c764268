"""What a GPU makes of exits, beside the most that it can do: minutes, one command, no download.

A random-weight LLaVA is drawn on the device itself; no file of weights is written or read. Every
number of requests is prefilled as one packed group and decoded by one engine, with no exit and
with images that some of the layers see. The floor of a prefill is its FLOPs over the rate of the
decoder's own matrix product at as many rows, that of a decode step the bytes it must read (decoder
and head once, each request's keys and values) over the bandwidth of a sum over a large tensor.
Cases run one after another in every round, medians over rounds count. Ratios are to the case
without exit.

    python -m benchmarks.gpu --out runs/gpu
    python -m benchmarks.gpu --preset bench-tiny --device cpu --dtype float32 --sequences 1 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import dyvte
from benchmarks.gpu_table import FILE, Row, table
from benchmarks.machine import Origin
from benchmarks.model import PRESETS, Preset, drawn
from benchmarks.weights import Case, step_bytes
from dyvte.engine.build import CPU_PAGE, CUDA_PAGE, EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.engine.plan import Limits
from dyvte.engine.warmup import warm_up
from dyvte.models.adapter import ModelAdapter
from dyvte.prompt import IMAGE, Prompt
from dyvte.streams import Lap

BEFORE, QUESTION = 36, 20  # ids before the image and behind it, as in LLaVA's template
MOST_ROWS = 16_384  # of the product that is timed: more are no faster
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round. Seconds; FLOPs and bytes of all requests together."""

    vision: float
    prefill: float
    step: float
    flops: int
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that the device does: FLOPs a second by rows, bytes a second."""

    rates: dict[int, float]
    bandwidth: float


def fastest(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    """Seconds on the device of the fastest of several calls, the first left out."""
    laps = []
    for _ in range(times + 1):
        lap = Lap(device)
        work()
        lap.stop()
        laps.append(lap)
    return min(lap.seconds for lap in laps[1:])


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a sum reads of 2 GiB (256 MiB on a CPU)."""
    size = (2 * GIB if device.type == "cuda" else GIB // 4) // 4
    block = torch.ones(size, device=device)
    return 4 * size / fastest(block.sum, device)


def matrix_rate(adapter: ModelAdapter, rows: int) -> float:
    """FLOPs a second of the decoder's up projection."""
    shape, device, dtype = adapter.decoder, adapter.device, adapter.dtype
    hidden = torch.randn(rows, shape.hidden_size, device=device, dtype=dtype)
    weight = torch.randn(shape.intermediate_size, shape.hidden_size, device=device, dtype=dtype)
    best = fastest(lambda: torch.nn.functional.linear(hidden, weight), device)
    return 2 * rows * shape.hidden_size * shape.intermediate_size / best


def prompts_of(preset: Preset, count: int, seed: int) -> list[Prompt]:
    """As many prompts, each with a picture of its own."""
    draw = torch.Generator().manual_seed(seed)
    size = (count, 3, preset.image_size, preset.image_size)
    pixels = torch.randn(size, generator=draw)
    ids = torch.randint(5, preset.vocab, (count, BEFORE + QUESTION), generator=draw).tolist()
    return [
        Prompt([*own[:BEFORE], IMAGE, *own[BEFORE:]], {"pixel_values": pixels[k : k + 1]})
        for k, own in enumerate(ids)
    ]


def engine_for(model: dyvte.Model, rows: int, count: int, steps: int) -> EngineCore:
    """One that holds ``count`` requests of ``rows`` rows and prefills all of them together."""
    shape = model.adapter.decoder
    page = CUDA_PAGE if model.adapter.device.type == "cuda" else CPU_PAGE
    pages = -(-(rows + steps + 2) // page) + 1
    row = 2 * shape.kv_dim * model.adapter.dtype.itemsize
    config = EngineConfig(
        max_model_len=pages * page,
        max_num_seqs=count,
        kv_cache_memory=count * shape.num_layers * pages * page * row,
        page_size=page,
    )
    core = build_core(model, config)
    core.scheduler.limits = Limits(count, count * rows)
    return core


def run(core: EngineCore, prompts: Sequence[Prompt], case: Case, steps: int) -> Sample:
    """Prefill all prompts together and decode ``steps`` tokens. Raises RuntimeError if it fails."""
    sampling = dyvte.SamplingParams(max_tokens=steps + 1, temperature=0, ignore_eos=True)
    states = [
        core.check(EngineRequest(f"{k}", prompt, sampling, case.exits))
        for k, prompt in enumerate(prompts)
    ]
    for state in states:
        core.add(state)
    _step(core, len(prompts))
    times = [_step(core, len(prompts)) for _ in range(steps)]
    if core.has_work:
        raise RuntimeError("the requests did not end together")
    stats = [core.stats_of(state) for state in states]
    return Sample(
        vision=max(each.timings.vision for each in stats),
        prefill=max(each.timings.prefill for each in stats),
        step=statistics.median(times),
        flops=sum(each.flops.prefill for each in stats),
        kv_bytes=sum(each.kv_bytes for each in stats),
    )


def _step(core: EngineCore, count: int) -> float:
    """Seconds of one step, which must give every request a token."""
    began = time.perf_counter()
    said = core.step()
    took = time.perf_counter() - began
    for each in said:
        if each.error is not None:
            raise RuntimeError("a request failed; the log says why") from each.error
    if len(said) != count:
        raise RuntimeError(f"{len(said)} of {count} requests got a token in a step")
    return took


def measure(args: argparse.Namespace, model: dyvte.Model) -> tuple[dict[str, Any], list[Row]]:
    """What was found out about the device, and all cases."""
    adapter, preset = model.adapter, PRESETS[args.preset]
    most, depth = max(args.sequences), adapter.decoder.num_layers
    prompts = prompts_of(preset, most, args.seed)
    rows = adapter.layout(prompts[0]).rows
    counted = {count: min(count * rows, MOST_ROWS) for count in args.sequences}
    limit = Limit(
        {count: matrix_rate(adapter, each) for count, each in counted.items()},
        bandwidth(adapter.device),
    )
    core = engine_for(model, rows, most, args.steps)
    began = time.perf_counter()
    warm_up(core)
    facts = {
        "attention": core.runner.attention.name,
        "decode_graphs": core.runner.graphs is not None,
        "warm_up_s": time.perf_counter() - began,
        "rows": rows,
        "bandwidth": limit.bandwidth,
        "matrix_rates": {str(counted[count]): rate for count, rate in limit.rates.items()},
    }
    print("\n".join(f"{name:<14} {value}" for name, value in facts.items()), flush=True)
    found: list[Row] = []
    for count in args.sequences:
        cases = [Case("none", count), *(Case(f"{n}", count, n - 1) for n in args.seen if n < depth)]
        found += _compare(core, model, prompts[:count], cases, limit, args)
        print(table(found[-len(cases) :], depth), flush=True)
    if adapter.device.type == "cuda":
        facts["peak_bytes"] = torch.cuda.max_memory_allocated(adapter.device)
    return facts, found


def _compare(
    core: EngineCore,
    model: dyvte.Model,
    prompts: Sequence[Prompt],
    cases: Sequence[Case],
    limit: Limit,
    args: argparse.Namespace,
) -> list[Row]:
    """One number of requests: every case in every round; the first round warms up."""
    samples: list[list[Sample]] = [[] for _ in cases]
    for _ in range(args.rounds + 1):
        for own, case in zip(samples, cases, strict=True):
            own.append(run(core, prompts, case, args.steps))
    base = samples[0][1:]
    rate = limit.rates[len(prompts)]
    return [
        _row(case, own[1:], base, rate, step_bytes(model, prompts, case) / limit.bandwidth)
        for case, own in zip(cases, samples, strict=True)
    ]


def _row(
    case: Case, own: Sequence[Sample], base: Sequence[Sample], rate: float, step_floor: float
) -> Row:
    median = statistics.median
    return Row(
        requests=case.sequences,
        seen=None if case.exit_layer is None else case.exit_layer + 1,
        vision_ms=1000 * median(each.vision for each in own),
        prefill_ms=1000 * median(each.prefill for each in own),
        prefill_floor_ms=1000 * own[0].flops / rate,
        prefill_ratio=median(a.prefill / b.prefill for a, b in zip(own, base, strict=True)),
        flops_ratio=own[0].flops / base[0].flops,
        step_ms=1000 * median(each.step for each in own),
        step_floor_ms=1000 * step_floor,
        step_ratio=median(a.step / b.step for a, b in zip(own, base, strict=True)),
        kv_bytes=own[0].kv_bytes,
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="llava-7b")
    add("--device", default="cuda")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--sequences", nargs="+", type=int, default=[1, 8, 32], help="requests together")
    add("--seen", nargs="+", type=int, default=[16, 8], help="layers that see the image")
    add("--steps", type=int, default=32, help="tokens decoded after the first")
    add("--rounds", type=int, default=5)
    add("--seed", type=int, default=0)
    add("--out", type=Path, help=f"a folder for {FILE}.json and {FILE}.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    args = parse(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available here (see --device)")
    command = ["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)]
    origin = Origin.here(command, args.seed, args.device)
    print(f"{origin}\n{'model':<14} {args.preset} ({args.dtype})", flush=True)
    began = time.perf_counter()
    model = drawn(args.preset, device, args.dtype, args.seed)
    print(f"{'drawn in':<14} {time.perf_counter() - began:.1f} s", flush=True)
    facts, rows = measure(args, model)
    text = table(rows, model.adapter.decoder.num_layers)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        found = {"provenance": origin.as_json(), "preset": args.preset, "dtype": args.dtype}
        found |= {"device": facts, "rows": [asdict(row) for row in rows]}
        file = args.out / FILE
        file.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
