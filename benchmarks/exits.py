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
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

import dyvte
from benchmarks.hf import HfModel
from benchmarks.machine import QUIET_CORES, Origin, Strangers
from benchmarks.model import IMAGE_SIZE, PRESETS, ensure
from dyvte.bench.workload import QUESTION_WORDS, WORDS, noise
from dyvte.prompt import Message

SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round. Seconds; FLOPs and bytes are those of all sequences together."""

    prefill: float
    step: float
    prefill_flops: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One case over all rounds; ratios are to the case without exit (medians over rounds)."""

    dtype: str
    sequences: int
    case: str
    prefill_ms: float
    prefill_ratio: float
    flops_ratio: float | None
    realised: float | None
    step_ms: float
    step_ratio: float
    kv_bytes: int | None
    kv_ratio: float | None


def conversation(seed: int) -> list[Message]:
    """One picture and a question of ``QUESTION_WORDS`` words."""
    draw = random.Random(seed)
    picture = Image.open(BytesIO(noise(draw, IMAGE_SIZE)))
    question = " ".join(draw.choices(WORDS, k=QUESTION_WORDS)) + "?"
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def exit_cases(num_layers: int, layers: Sequence[int] | None) -> dict[str, dyvte.ExitOptions]:
    """No exit, then an exit after each of ``layers`` (a half and a third of the depth)."""
    chosen = layers or (num_layers // 2, num_layers // 3)
    cases = {"no exit": dyvte.ExitOptions(policy="off")}
    for layer in chosen:
        options = dyvte.ExitOptions(policy="fixed", exit_layer=layer)
        cases[f"exit after {layer} of {num_layers}"] = options
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
    cases: dict[str, Callable[[], Sample]], rounds: int, strict: bool
) -> dict[str, list[Sample]]:
    """Run every case once to warm up, then ``rounds`` rounds of all; disturbed rounds repeat."""
    for run in cases.values():
        run()
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    attempts = 0
    while len(samples["no exit"]) < rounds:
        attempts += 1
        strangers = Strangers()
        found = {name: run() for name, run in cases.items()}
        others = strangers.cores()
        if strict and others > QUIET_CORES:
            print(f"round discarded: others used {others:.2f} cores", file=sys.stderr)
            if attempts >= 4 * rounds:
                raise RuntimeError("this machine is too busy to measure on (see --busy)")
            continue
        for name, sample in found.items():
            samples[name].append(sample)
    return samples


def row(dtype: str, sequences: int, case: str, samples: dict[str, list[Sample]]) -> Row:
    """Medians of one case and its ratios to "no exit"."""
    base, own = samples["no exit"], samples[case]
    pairs = list(zip(own, base, strict=True))
    time_ratio = statistics.median(a.prefill / b.prefill for a, b in pairs)
    counted = own[0].prefill_flops > 0
    flops_ratio = own[0].prefill_flops / base[0].prefill_flops if counted else None
    saved = flops_ratio is not None and flops_ratio < 1
    return Row(
        dtype=dtype,
        sequences=sequences,
        case=case,
        prefill_ms=1000 * statistics.median(a.prefill for a in own),
        prefill_ratio=time_ratio,
        flops_ratio=flops_ratio,
        realised=(1 - time_ratio) / (1 - (flops_ratio or 0)) if saved else None,
        step_ms=1000 * statistics.median(a.step for a in own),
        step_ratio=statistics.median(a.step / b.step for a, b in pairs),
        kv_bytes=own[0].kv_bytes if counted else None,
        kv_ratio=own[0].kv_bytes / base[0].kv_bytes if counted else None,
    )


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
        samples = measure(cases, args.rounds, strict=not args.busy)
        rows += [row(dtype, count, name, samples) for name in cases]
        print("\n".join(_line(each) for each in rows[-len(cases) :]), flush=True)
    return rows


def _peer(peer: HfModel, talks: Sequence[Sequence[Message]], new: int) -> Callable[[], Sample]:
    inputs = peer.inputs(talks)

    def run() -> Sample:
        times = peer.time(inputs, new)
        return Sample(prefill=times.prefill, step=times.step)

    return run


HEAD = (
    f"{'type':<9} {'seqs':>4}  {'case':<18} {'prefill':>10} {'time':>6} {'FLOPs':>6} "
    f"{'realised':>8} {'step':>9} {'time':>6} {'KV':>9} {'bytes':>6}"
)


def _line(each: Row) -> str:
    flops = "" if each.flops_ratio is None else f"{each.flops_ratio:.3f}"
    realised = "" if each.realised is None else f"{each.realised:.0%}"
    held = "" if each.kv_bytes is None else f"{each.kv_bytes / 1e6:.1f} MB"
    ratio = "" if each.kv_ratio is None else f"{each.kv_ratio:.3f}"
    return (
        f"{each.dtype:<9} {each.sequences:>4}  {each.case:<18} {each.prefill_ms:>7.1f} ms "
        f"{each.prefill_ratio:>6.3f} {flops:>6} {realised:>8} {each.step_ms:>6.2f} ms "
        f"{each.step_ratio:>6.3f} {held:>9} {ratio:>6}"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exits", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench-small")
    add("--model", type=Path, help="a folder instead of a preset")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--dtypes", nargs="+", default=["bfloat16", "float32"])
    add("--sequences", nargs="+", type=int, default=[1, 8])
    add("--exit-layers", nargs="+", type=int, help="default: a half and a third of the depth")
    add("--new", type=int, default=16, help="tokens generated")
    add("--rounds", type=int, default=5)
    add("--hf", action="store_true", help="transformers' generate as one more case")
    add("--busy", action="store_true", help="keep rounds during which others used the cores")
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the rows with their provenance")
    return parser.parse_args(argv)


def main() -> None:
    """Measure and print."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    command = ["python", "-m", "benchmarks.exits", *sys.argv[1:]]
    origin = Origin.here(command, args.seed, args.device)
    folder = args.model or ensure(args.preset, args.models / args.preset)
    print(f"{origin}\n{'model':<8} {folder}\n\n{HEAD}", flush=True)
    rows = [each for dtype in args.dtypes for each in compare(args, folder, dtype)]
    if args.json:
        figures = {
            "provenance": origin.as_json(),
            "model": str(folder),
            "rows": [asdict(each) for each in rows],
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
