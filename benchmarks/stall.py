"""How long prompts that arrive hold up a stream that runs: time between its tokens, per knob.

The engine in this process, without HTTP. One stream decodes; first alone, then while prompts with
many images arrive, the next as soon as the one before has begun to answer. Without the knob
(``--max-stall-ms 0``) a prompt runs whole between two tokens.

    python -m benchmarks.stall --knobs 0 100 --arrivals 2 --out runs/stall.json
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import dyvte
from benchmarks.machine import Origin, Strangers
from benchmarks.model import PRESETS, ensure
from benchmarks.peers.page import circumstances_of, table
from benchmarks.results import write
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.engine.sequence import RequestState
from dyvte.engine.warmup import warm_up
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import IMAGE, Prompt

TEXT = 40  # ids before and behind the images
QUESTION = 20
FOREVER = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """One knob: gaps between the stream's tokens in ms, and the arrivals' first tokens in s."""

    knob_ms: float
    exit: str
    visual_tokens: int
    quiet_p50: float
    quiet_p99: float
    p50: float
    p99: float
    worst: float
    gaps: int
    ttft_s: float
    others: float

    @property
    def bound(self) -> float:
        """The quiet P99 plus the knob: what P99 stays under."""
        return self.quiet_p99 + self.knob_ms

    @property
    def holds(self) -> bool:
        """True where nothing was promised, too."""
        return self.knob_ms == 0 or self.p99 < self.bound

    def line(self) -> str:
        """For a terminal."""
        promise = "" if not self.knob_ms else " holds" if self.holds else " DOES NOT HOLD"
        return (
            f"knob {self.knob_ms:4.0f} ms, exit {self.exit:>4}: quiet {self.quiet_p50:6.1f} / "
            f"{self.quiet_p99:6.1f}, with arrivals {self.p50:6.1f} / {self.p99:6.1f}, worst "
            f"{self.worst:7.1f} ms over {self.gaps} gaps; first token after {self.ttft_s:5.2f} s"
            f"{promise} ({self.others:.2f} cores used by others)"
        )

    def cells(self) -> list[str]:
        """For a table; P99 in bold where it holds, and who else computed."""
        p99 = f"{self.p99:.0f}"
        return [
            f"{self.visual_tokens}",
            "none" if self.exit == "off" else f"after layer {self.exit}",
            f"{self.knob_ms:.0f}" if self.knob_ms else "none",
            f"{self.quiet_p50:.0f} / {self.quiet_p99:.0f}",
            f"{self.p50:.0f} / {f'**{p99}**' if self.knob_ms and self.holds else p99}",
            f"{self.bound:.0f}" if self.knob_ms else "",
            f"{self.worst:.0f}",
            f"{self.gaps}",
            f"{self.ttft_s:.1f} s",
            f"{self.others:.2f}",
        ]


def text(rows: Sequence[Row], origin: Origin, model: str) -> str:
    """Circumstances and a table in Markdown; milliseconds where nothing else is said."""
    head = ["visual tokens", "exit", "`--max-stall-ms`", "quiet p50 / P99", "p50 / P99"]
    head += ["bound", "worst", "gaps", "first token", "others' cores"]
    told = f"{circumstances_of(origin.as_json())}: {model}, {origin.threads} threads."
    return f"{told}\n\n{table(head, [row.cells() for row in rows])}"


@dataclass
class Stream:
    """One engine with a stream that never ends, and what is put beside it."""

    core: EngineCore
    exits: ExitOptions
    count: int = 0
    state: RequestState = field(init=False)

    def __post_init__(self) -> None:
        warm_up(self.core)
        self.state = self.add(prompt(self.core, 0, 0), FOREVER)
        while not self.state.choices[0].token_ids:
            self.core.step()

    def add(self, asked: Prompt, max_tokens: int) -> RequestState:
        """Put a prompt beside the stream."""
        sampling = SamplingParams(max_tokens=min(max_tokens, self.room(asked)), temperature=0,
                                  ignore_eos=True)  # fmt: skip
        self.count += 1
        exits = self.exits if asked.images else ExitOptions(policy="off")
        state = self.core.check(EngineRequest(f"r{self.count}", asked, sampling, exits))
        self.core.add(state)
        return state

    def room(self, asked: Prompt) -> int:
        """New tokens that fit behind a prompt."""
        return self.core.max_model_len - self.core.model.adapter.layout(asked).rows

    def gap(self) -> float:
        """Seconds until the stream's next token."""
        before, began = len(self.state.choices[0].token_ids), time.perf_counter()
        while len(self.state.choices[0].token_ids) == before:
            self.core.step()
        return time.perf_counter() - began


def prompt(core: EngineCore, images: int, seed: int) -> Prompt:
    """Noise between words; what is seen does not matter for the time it takes."""
    draw = torch.Generator().manual_seed(seed)
    vocab, side = core.model.adapter.decoder.vocab_size, _side(core)
    ids = torch.randint(10, vocab, (TEXT + QUESTION,), generator=draw).tolist()
    ids[TEXT:TEXT] = [IMAGE] * images
    pixels = torch.randn(images, 3, side, side, generator=draw)
    return Prompt(ids, {"pixel_values": pixels} if images else None)


def _side(core: EngineCore) -> int:
    return int(core.model.adapter.image_shape[1])  # type: ignore[attr-defined]


def measure(
    model: dyvte.Model, knob_ms: float, exits: ExitOptions, images: int, arrivals: int, quiet: int
) -> Row:
    """One knob on one model."""
    config = EngineConfig(max_stall_ms=knob_ms, kv_cache_memory=6 * 1024**3)
    stream = Stream(build_core(model, config), exits)
    stream.add(prompt(stream.core, images, 1), 2)  # the pace of large prompts is learned here
    while stream.core.scheduler.waiting or stream.core.scheduler.group:
        stream.core.step()
    strangers = Strangers()
    alone = [stream.gap() for _ in range(quiet)]
    beside: list[float] = []
    first: list[float] = []
    visual = 0
    for number in range(arrivals):
        state = stream.add(prompt(stream.core, images, 2 + number), 2)
        visual = state.layout.visual_rows
        while state.clock.first_token is None:
            beside.append(stream.gap())
        first.append(state.clock.first_token - state.clock.arrived)
    return Row(
        knob_ms=knob_ms,
        exit=str(exits.exit_layer) if exits.policy == "fixed" else exits.policy,
        visual_tokens=visual,
        quiet_p50=1000 * quantile(alone, 0.5),
        quiet_p99=1000 * quantile(alone, 0.99),
        p50=1000 * quantile(beside, 0.5),
        p99=1000 * quantile(beside, 0.99),
        worst=1000 * max(beside),
        gaps=len(beside),
        ttft_s=sum(first) / len(first),
        others=strangers.cores(),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stall", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="bench-small-144")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--device", default="cpu")
    add("--dtype", default="float32")
    add("--visual-tokens", type=int, default=2880)
    add("--knobs", type=float, nargs="+", default=[0.0, 100.0], help="--max-stall-ms, in turn")
    add("--exits", nargs="+", default=["off"], help="off, or the layer after which images leave")
    add("--arrivals", type=int, default=2)
    add("--quiet", type=int, default=200, help="tokens of the stream alone")
    add("--out", type=Path, default=Path("runs/stall.json"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if a knob did not hold."""
    args = parse(argv)
    own = sys.argv[1:] if argv is None else argv
    origin = Origin.here(["python", "-m", "benchmarks.stall", *own], 0, args.device)
    folder = ensure(args.preset, args.models / args.preset, args.dtype)
    model = dyvte.load(folder, device=args.device, dtype=args.dtype)
    images = args.visual_tokens // PRESETS[args.preset].image_tokens
    rows: list[Row] = []
    for name in args.exits:
        exits = ExitOptions("off") if name == "off" else ExitOptions("fixed", exit_layer=int(name))
        for knob in args.knobs:
            rows.append(measure(model, knob, exits, images, args.arrivals, args.quiet))
            print(rows[-1].line(), flush=True)
    told = {"provenance": origin.as_json(), "rows": [asdict(row) for row in rows]}
    write(args.out, told, text(rows, origin, f"{args.preset} in {args.dtype}"))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
