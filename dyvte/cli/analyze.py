"""`dyvte analyze`: the paper's figures for any model and data, and the numbers behind them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dyvte.analysis.options import FIGURES, StudyOptions, figures_of
from dyvte.bench.provenance import Provenance
from dyvte.cli.usage import FOREIGN, CommandError, Parser, add_reading, number, reading, whole
from dyvte.params import ExitOptions


def run(argv: Sequence[str]) -> int:
    """Read samples, look at each, write the files, print their paths."""
    args = _parser().read(argv)
    exits = _exits(args)
    figures = figures_of(args.figures)
    _check_paths(args)

    from rich.console import Console
    from rich.progress import Progress

    import dyvte  # torch loads here, after everything that can be refused without it
    from dyvte.analysis.report import write_figures, write_numbers
    from dyvte.analysis.study import study
    from dyvte.analysis.style import check_matplotlib
    from dyvte.data import Skips, read_samples
    from dyvte.evaluation.scoring import score

    if not args.no_png:
        check_matplotlib()
    skips = Skips()
    samples = read_samples(args.data, args.images, skips)
    model = dyvte.load(
        args.model, args.gates, args.device, args.dtype, args.foreign_gates, *reading(args)
    )
    last = model.adapter.decoder.num_layers - 1
    wanted = exits or model.grants.default
    if wanted.policy == "off":
        wanted = ExitOptions(policy="fixed", exit_layer=last // 2)
    options = StudyOptions(wanted, figures, args.limit, args.max_tokens, args.stride)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("prompts", total=args.limit)
        found = study(
            model,
            samples,
            options,
            lambda text, sample: score(text, sample.answers, sample.choices).right("auto"),
            skips,
            lambda done: progress.update(task, completed=done),
        )
    for line in found.skips.report():
        print(f"skipped {line}", file=sys.stderr)
    if not found.samples:
        raise CommandError(
            f"--data {args.data} has no question about an image that could be read",
            "see the lines above, or the layouts in docs/analysis.md",
        )
    about: dict[str, object] = {"model": args.model, "data": str(args.data)}
    about = {**about, "provenance": asdict(Provenance.here(["dyvte", "analyze", *argv]))}
    args.out.mkdir(parents=True, exist_ok=True)
    print(write_numbers(found, args.out, about))
    if not args.no_png:
        title = f"{args.model} · {args.data.name}"
        for path in write_figures(found, args.out, title):
            print(path)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte analyze",
        "Where a model's attention goes, layer by layer, and what an exit does to it: the figures "
        "of the paper for any model and data.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="JSON or JSONL of questions")
    add("--images", type=Path, metavar="DIR", help="folder of image paths (default: the file's)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--model", default="demo", help="demo, a folder or a hub id")
    add("--gates", metavar="DIR", help="gates kept apart from the model")
    add("--foreign-gates", action="store_true", help=FOREIGN)
    add("--limit", type=whole(1), default=100, metavar="N", help="questions to look at")
    add(
        "--figures", default=",".join(FIGURES), metavar="LIST", help="what to find out, with commas"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--aggressiveness", type=number, metavar="A", help='the exit of "with exit": gates at A'
    )
    choice.add_argument(
        "--exit-layer",
        type=whole(0),
        metavar="E",
        help="… or after this layer (default: the model's own, else half of its depth)",
    )
    add("--max-tokens", type=whole(1), default=32, metavar="N", help="of an answer")
    add("--stride", type=whole(1), default=1, metavar="K", help="force exits after each K-th layer")
    add("--no-png", action="store_true", help="numbers only, no matplotlib")
    add_reading(parser)
    return parser


def _exits(args: argparse.Namespace) -> ExitOptions | None:
    """None leaves the choice to the model's own default."""
    if args.exit_layer is not None:
        return ExitOptions(policy="fixed", exit_layer=args.exit_layer)
    if args.aggressiveness is not None:
        return ExitOptions(aggressiveness=args.aggressiveness)
    return None


def _check_paths(args: argparse.Namespace) -> None:
    """What cannot be read or written is refused before a model is loaded."""
    if not args.data.is_file():
        raise CommandError(f"--data {args.data} is not a file", "give JSON lines or a JSON array")
    if args.out.exists() and not args.out.is_dir():
        raise CommandError(f"--out {args.out} is not a folder", "give a new or an existing one")
