"""How many requests a KV budget runs at once, with and without an exit.

The budget is what ``--requests`` requests need that keep their image to the end. Twice as many are
asked at once, and the most that were decoding or in prefill together is told; what layers above an
exit never needed serves the others.

    python -m benchmarks.concurrency --preset bench-small --requests 8
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import dyvte
from benchmarks.exits import conversation
from benchmarks.machine import Origin
from benchmarks.model import PRESETS, ensure
from benchmarks.peers.page import circumstances_of, table
from benchmarks.results import write
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest


def core_for(
    model: dyvte.Model, prompts: Sequence[dyvte.Prompt], requests: int, new: int
) -> EngineCore:
    """An engine whose pool holds the longest prompt and its answer ``requests`` times."""
    room = build_core(model)
    ledger, cache = room.scheduler.ledger, room.runner.cache
    rows = max(model.adapter.layout(prompt).rows for prompt in prompts) + new
    pages = requests * ledger.num_layers * ledger.pages_for(rows)
    config = EngineConfig(
        kv_cache_memory=pages * ledger.page_size * cache.row_bytes,
        max_model_len=rows,
        max_num_seqs=4 * requests,
    )
    return build_core(model, config)


def most_at_once(
    core: EngineCore, prompts: Sequence[dyvte.Prompt], new: int, exits: dyvte.ExitOptions
) -> int:
    """Ask all prompts and run to the end: the most that held pages together."""
    sampling = dyvte.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    for index, prompt in enumerate(prompts):
        request = EngineRequest(str(index), prompt, sampling, exits)
        core.add(core.check(request))
    most = 0
    while core.has_work:
        most = max(most, len(core.scheduler.running) + len(core.scheduler.group))
        for emission in core.step():
            if emission.error is not None:
                raise emission.error
    return most


@dataclass(frozen=True, slots=True)
class Row:
    """The most at once, with the image in ``seen`` of ``layers`` layers."""

    seen: int
    layers: int
    most: int


def measure(
    model: dyvte.Model, prompts: Sequence[dyvte.Prompt], requests: int, new: int
) -> Iterator[Row]:
    """Without an exit, and with one after half and after a third of the layers."""
    layers = model.adapter.decoder.num_layers
    for seen in (layers, layers // 2, layers // 3):
        exits = dyvte.ExitOptions("off")
        if seen < layers:
            exits = dyvte.ExitOptions("fixed", exit_layer=seen - 1)
        core = core_for(model, prompts, requests, new)
        yield Row(seen, layers, most_at_once(core, prompts, new, exits))


def text(rows: Sequence[Row], origin: Origin, model: str, requests: int, new: int) -> str:
    """Circumstances and a table in Markdown."""
    told = (
        f"{circumstances_of(origin.as_json())}: {model}, {2 * requests} requests of {new} tokens, "
        f"a budget of {requests} that keep their image."
    )
    lines = [[f"{row.seen} of {row.layers}", str(row.most)] for row in rows]
    return f"{told}\n\n{table(['layers that see the image', 'requests at once'], lines)}"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench-small")
    add("--model", type=Path, help="a folder instead of a preset")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--dtype", default="float32")
    add("--requests", type=int, default=8)
    add("--new", type=int, default=64, help="tokens generated")
    add("--device", default="cpu")
    add("--out", type=Path, default=Path("runs/concurrency.json"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    args = parse(argv)
    own = sys.argv[1:] if argv is None else argv
    origin = Origin.here(["python", "-m", "benchmarks.concurrency", *own], 0, args.device)
    folder = args.model or ensure(args.preset, args.models / args.preset)
    model = dyvte.load(folder, device=args.device, dtype=args.dtype)
    prompts = [model.prompt(conversation(seed)) for seed in range(2 * args.requests)]
    print(f"{origin}\n{'model':<8} {folder}\n", flush=True)
    rows: list[Row] = []
    for row in measure(model, prompts, args.requests, args.new):
        rows.append(row)
        print(f"image in {row.seen:>2} of {row.layers} layers: {row.most:>3} at once", flush=True)
    told = {"provenance": origin.as_json(), "rows": [asdict(row) for row in rows]}
    write(args.out, told, text(rows, origin, folder.name, args.requests, args.new))


if __name__ == "__main__":
    main()
