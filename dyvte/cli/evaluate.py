"""`dyvte evaluate`: what many settings score, cost and save on a data file, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dyvte.bench.provenance import Provenance
from dyvte.cli.progress import Bar
from dyvte.cli.usage import FOREIGN, CommandError, Parser, add_reading, add_weights, reading, whole
from dyvte.params import SamplingParams

if TYPE_CHECKING:
    from dyvte.evaluation.settings import Preset, Setting
    from dyvte.evaluation.sweep import Progress, SweepConfig, Swept
    from dyvte.model import Model

DESCRIPTION = """\
Answer a data file under many settings and write what each costs and saves: results.json,
results.csv, table.md and pareto.png in --out. No exit ("off") is always among them."""
GATES = "gate:0.1,0.25,0.5,0.75,0.9"


def run(argv: Sequence[str]) -> int:
    """Sweep, write, and print the table."""
    args = _parser().read(argv)

    from dyvte.data import Skips, read_samples  # torch loads here
    from dyvte.evaluation.pareto import check_figures, draw_pareto
    from dyvte.evaluation.report import FIGURE, as_table, write_results
    from dyvte.evaluation.sweep import sweep

    if not args.no_figure:
        check_figures()
    skips = Skips()
    samples = list(read_samples(args.data, args.images, skips))[: args.limit]
    if not samples:
        raise CommandError(f"--data {args.data} holds no usable row", "; ".join(skips.report(3)))
    model = _load(args)
    config = _config(args, model)
    args.out.mkdir(parents=True, exist_ok=True)
    with _Watch(args, len(samples)) as progress:
        swept = sweep(model, samples, config, skips, progress)
    for line in skips.report():
        print(f"dyvte evaluate: skipped {line}", file=sys.stderr)
    if not swept.rows[0].samples:
        raise CommandError(f"--data {args.data}: no row fits this model", "see the lines above")
    write_results(args.out, swept.rows, _about(args, argv, model, config, swept))
    if not args.no_figure:
        title = f"{args.model}, {swept.rows[0].samples} samples of {args.data.name}"
        draw_pareto(swept.rows, args.out / FIGURE, title)
    print(as_table(swept.rows))
    return 0


def _parser() -> Parser:
    parser = Parser("dyvte evaluate", DESCRIPTION)
    add = parser.add_argument
    add("--model", default="demo", help="demo, a folder or a hub id")
    add("--gates", metavar="DIR", help="gates kept apart from the model")
    add("--foreign-gates", action="store_true", help=FOREIGN)
    add("--data", type=Path, required=True, metavar="FILE", help="JSONL or JSON of questions")
    add("--images", type=Path, metavar="DIR", help="where image paths begin (default: with FILE)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        *("--policies", "--sweep"),
        nargs="+",
        metavar="SPEC",
        help="what to compare, e.g. gate:0.25,0.5 gate:balanced gate:risk=0.02 fixed:3-8 "
        "fastv:2/0.5 gate:0.5+fastv:2/0.5 (docs/evaluation.md has the grammar)",
    )
    add("--metric", default="auto", help="auto, exact, contains or choice")
    add("--max-tokens", type=whole(1), default=64, metavar="N", help="longest answer")
    add("--limit", type=whole(1), metavar="N", help="only the first N samples")
    add("--batch", type=whole(1), default=32, metavar="N", help="samples answered at a time")
    add("--timed", type=whole(0), default=16, metavar="N", help="samples that are timed")
    add("--rounds", type=whole(1), default=3, metavar="N", help="rounds of timing")
    add("--no-share", action="store_true", help="run every setting on its own")
    add("--answers", action="store_true", help="write every answer to answers.jsonl as well")
    add("--no-figure", action="store_true", help="write no pareto.png")
    add_reading(parser)
    add_weights(parser)
    return parser


def _load(args: argparse.Namespace) -> Model:
    from dyvte.model import load

    return load(
        args.model,
        args.gates,
        args.device,
        args.dtype,
        args.foreign_gates,
        *reading(args),
        weights=args.weights,
    )


def _config(args: argparse.Namespace, model: Model) -> SweepConfig:
    from dyvte.evaluation.sweep import SweepConfig

    return SweepConfig(
        settings=_settings(args.policies, model),
        sampling=SamplingParams(max_tokens=args.max_tokens, temperature=0),
        metric=args.metric,
        share=not args.no_share,
        batch=args.batch,
        timed=args.timed,
        rounds=args.rounds,
    )


def _settings(specs: Sequence[str] | None, model: Model) -> list[Setting]:
    """What was asked for, or a first look at this model."""
    from dyvte.evaluation.settings import parse_all
    from dyvte.evaluation.sweep import check_granted
    from dyvte.exits.prune.methods import prune_methods

    if specs is None:
        layers = model.grants.num_layers
        middle = sorted({layers * part // 8 for part in (2, 3, 4, 5, 6)})
        specs = ["fixed:" + ",".join(str(layer) for layer in middle)]
        specs += [GATES] if model.grants.gated_layers else []
    settings = parse_all(specs, tuple(prune_methods()), _presets(model))
    for setting in settings:
        check_granted(model, setting)
    return settings


def _presets(model: Model) -> dict[str, Preset]:
    """What the names that this model offers stand for."""
    from dyvte.evaluation.settings import Preset

    single, chat = (model.grants.presets(conversation) for conversation in (False, True))
    return {name: Preset(single[name], chat[name]) for name in single}


class _Watch:
    """A bar for the answers, then one for the timing, and the file of answers."""

    def __init__(self, args: argparse.Namespace, samples: int) -> None:
        self._bars, self._files = ExitStack(), ExitStack()
        self._ticks = min(args.timed, samples) * args.rounds
        self._bar = self._bars.enter_context(Bar("answering", samples))
        self._done = 0
        self._timing = False
        self._file: IO[str] | None = None
        if args.answers:
            path = args.out / "answers.jsonl"
            self._file = self._files.enter_context(path.open("w", encoding="utf-8"))

    def __enter__(self) -> Progress:
        from dyvte.evaluation.sweep import Progress

        return Progress(self._answered, self._answer if self._file else None, self._clocked)

    def __exit__(self, *raised: object) -> None:
        self._bars.close()
        self._files.close()

    def _answered(self, count: int) -> None:
        self._done += count
        self._bar.update(self._done)

    def _answer(self, row: dict[str, Any]) -> None:
        assert self._file is not None, "not told without a file"
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _clocked(self) -> None:
        if not self._timing:
            self._bars.close()
            self._bar = self._bars.enter_context(Bar("timing", self._ticks, "prompts"))
            self._timing, self._done = True, 0
        self._done += 1
        self._bar.update(self._done)


def _about(
    args: argparse.Namespace, argv: Sequence[str], model: Model, config: SweepConfig, swept: Swept
) -> dict[str, Any]:
    """What one needs in order to read the numbers, and to get them again."""
    adapter = model.adapter
    return {
        "provenance": asdict(Provenance.here(["dyvte", "evaluate", *argv])),
        "model": model.name,
        "gates": args.gates or (model.gate_card.trained_on if model.gate_card else None),
        "device": str(adapter.device),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "layers": adapter.decoder.num_layers,
        "data": str(args.data),
        "samples": swept.rows[0].samples,
        "skipped": [asdict(skip) for skip in swept.skips.rows],
        "metric": config.metric,
        "shared": config.share,
        "timed_samples": swept.timed,
        "timed_rounds": config.rounds,
    }
