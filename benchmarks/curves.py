"""What a request costs: against visual tokens, against the batch, against the layers that see them.

The engine in this process, without HTTP: prefill, vision, decode step, whole time, bytes of keys
and values; then, of servers in processes of their own, seconds from start to first reply and
memory. One JSON line a point, disturbed ones repeated as in ``benchmarks.peers``; the same command
goes on where it stopped.

    python -m benchmarks.curves --rounds 3 --minutes 15 --out runs/curves
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image

import dyvte
from benchmarks.curve_report import MARKER, draw, text
from benchmarks.machine import QUIET_CORES, Origin, Strangers
from benchmarks.model import PRESETS, ensure
from benchmarks.peers.campaign import REPEATS
from benchmarks.peers.page import picture, put
from benchmarks.peers.processes import Fleet, ServerFailed
from benchmarks.peers.servers import Server
from benchmarks.points import BATCH, LAYERS, START, TOKENS, Place, Point, Points
from dyvte.bench.workload import QUESTION_WORDS, WORDS, noise
from dyvte.prompt import Message

VISUAL_TOKENS = (144, 288, 576, 1152, 2304, 2880)
BATCHES = (1, 2, 4, 8, 16, 32)
SEEN_LAYERS = (1, 2, 4, 5, 6, 8, 10, 12, 14, 16)
NEW_TOKENS = {TOKENS: 4, BATCH: 16, LAYERS: 8}
DEPTH, PER_IMAGE = 16, 144  # of bench-small and its small pictures
PORT = 8120


def places(
    curve: str, rounds: int, depth: int = DEPTH, per_image: int = PER_IMAGE
) -> Iterator[Place]:
    """Every point of a curve, round by round; ``seen`` is how many layers see the image.

    Visual tokens come in whole pictures of ``per_image``.
    """
    tokens = [count for count in VISUAL_TOKENS if count % per_image == 0]
    layers = [count for count in SEEN_LAYERS if count < depth] + [depth]
    xs = {TOKENS: tokens, BATCH: BATCHES, LAYERS: layers, START: (0,)}[curve]
    exits = (depth, depth // 2, depth // 3)
    wanted = {TOKENS: exits, BATCH: exits[:2], LAYERS: (0,), START: (0,)}[curve]
    for number in range(rounds):
        for x in xs:
            for seen in wanted:
                yield Place(curve, x, seen or x, number)


def preset_of(curve: str, preset: str) -> str:
    """The model of a curve: visual tokens come in small pictures where a preset has such."""
    small = f"{preset}-144"
    return small if curve == TOKENS and small in PRESETS else preset


@dataclass
class Bench:
    """One model, loaded once."""

    preset: str
    model: dyvte.Model
    quiet: float = QUIET_CORES

    def point(self, place: Place, salt: str) -> Point:
        """Measure one; ``salt`` makes its pictures its own, the words are those of every point."""
        per_image = PRESETS[self.preset].image_tokens
        count = place.x if place.curve == BATCH else 1
        pictures = place.x // per_image if place.curve == TOKENS else 1
        prompts = [
            self.model.prompt(self._conversation(f"{salt}/{k}", pictures, k)) for k in range(count)
        ]
        layers = self.model.adapter.decoder.num_layers
        exits = dyvte.ExitOptions(policy="off")
        if place.seen < layers:
            exits = dyvte.ExitOptions(policy="fixed", exit_layer=place.seen - 1)
        new = NEW_TOKENS[place.curve]
        sampling = dyvte.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        strangers = Strangers()
        stats = [each.stats for each in dyvte.generate(self.model, prompts, sampling, exits)]
        others = strangers.cores()
        return Point(
            **place._asdict(),
            kept=others <= self.quiet,
            others=others,
            seconds=max(each.timings.total for each in stats) / count,
            vision=max(each.timings.vision for each in stats),
            prefill=max(each.timings.prefill for each in stats),
            # Those who came last: what the first waited for others' prefills is no step.
            step=min(each.timings.decode for each in stats) / (new - 1),
            kv_bytes=sum(each.kv_bytes for each in stats) // count,
            prefill_flops=sum(each.flops.prefill for each in stats) // count,
        )

    def _conversation(self, salt: str, pictures: int, asked: int) -> list[Message]:
        draw, side = random.Random(salt), PRESETS[self.preset].image_size
        content: list[dict[str, object]] = [
            {"type": "image", "image": Image.open(BytesIO(noise(draw, side)))}
            for _ in range(pictures)
        ]
        question = " ".join(random.Random(asked).choices(WORDS, k=QUESTION_WORDS)) + "?"
        return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def starting(place: Place, folder: Path, logs: Path, quiet: float) -> Point:
    """A server started and ended: seconds to its first reply, memory when it has replied."""
    command = (sys.executable, "-m", "server", "--model", str(folder), "--dtype", "float32")
    server = Server("start", (*command, "--port", str(PORT), "--log-level", "warning"), PORT, "")
    fleet = Fleet(logs)
    try:
        running = fleet.only(server)
        memory = running.memory_bytes()
    finally:
        fleet.stop()
    return Point(
        **place._asdict(),
        kept=running.start_others <= quiet,
        others=running.start_others,
        seconds=running.start_seconds,
        memory_bytes=memory,
    )


Take = Callable[[Place, str], Point]


def measure(args: argparse.Namespace, points: Points) -> int:
    """Round by round every point that is missing, until the time is up; how many still are."""
    wanted: list[Place] = []
    for curve in args.curves:
        shape = PRESETS[preset_of(curve, args.preset)]
        wanted += places(curve, args.rounds, shape.text.layers, shape.image_tokens)
    wanted.sort(key=lambda place: place.round)
    there, end = points.kept(), time.monotonic() + 60 * args.minutes
    takers: dict[str, Take] = {}
    for place in wanted:
        if place in there:
            continue
        if time.monotonic() > end:
            break
        if place.curve not in takers:
            takers[place.curve] = _taker(place, args)
        _repeated(place, takers[place.curve], points)
    return len(set(wanted) - set(points.kept()))


def _taker(first: Place, args: argparse.Namespace) -> Take:
    """What measures the points of the curve of ``first``, warmed up."""
    quiet = math.inf if args.busy else QUIET_CORES
    preset = preset_of(first.curve, args.preset)
    folder = ensure(preset, args.models / preset)
    if first.curve == START:
        return lambda place, _: starting(place, folder, args.out / "logs", quiet)
    bench = Bench(preset, _loaded(folder), quiet)
    bench.point(first, "warm-up")
    return bench.point


@cache
def _loaded(folder: Path) -> dyvte.Model:
    return dyvte.load(folder, device="cpu", dtype="float32")


def _repeated(place: Place, take: Take, points: Points) -> bool:
    for attempt in range(REPEATS + 1):
        try:
            point = take(place, f"{points.session}/{place}/{attempt}")
        except ServerFailed as error:
            print(f"{place.curve}: {error}", file=sys.stderr, flush=True)
            return False
        points.append(point)
        state = "kept" if point.kept else "DISTURBED"
        told = f"{place.curve} {place.x}, {place.seen} layers, round {place.round}"
        print(f"{told}: {point.seconds:.3f} s, {state} ({point.others:.2f})", flush=True)
        if point.kept:
            return True
    return False


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    add = parser.add_argument
    add("--curves", nargs="+", choices=(LAYERS, TOKENS, BATCH, START), metavar="C",
        default=[START, LAYERS, TOKENS, BATCH])  # fmt: skip
    add("--preset", choices=PRESETS, default="bench-small")
    add("--rounds", type=int, default=2)
    add("--minutes", type=float, default=math.inf, help="begin no point after so many")
    add("--models", type=Path, default=Path("runs/models"), help="where presets are kept")
    add("--out", type=Path, default=Path("runs/curves"))
    add("--busy", action="store_true", help="keep disturbed points: to try it out")
    add("--report", action="store_true", help="measure nothing")
    add("--page", type=Path, help="put the tables there, between their markers")
    add("--figure", type=Path, help="where the picture goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if points are missing."""
    args = parse(argv)
    own = sys.argv[1:] if argv is None else argv
    origin = Origin.here(["python", "-m", "benchmarks.curves", *own], 0, "cpu")
    points = Points(args.out)
    missing = 0
    if not args.report:
        points.open_session(origin.as_json())
        missing = measure(args, points)
    found = text(points)
    print(found)
    if args.figure:
        draw(points, args.figure)
        if args.page:
            found += f"\n\n{picture(args.figure, args.page, 'The same as curves')}"
    if args.page:
        put(args.page, MARKER, found)
    if missing:
        print(f"{missing} points are missing: the same command goes on", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
