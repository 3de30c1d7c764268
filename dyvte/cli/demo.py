"""`dyvte demo …`: makes the embedded model again, measures it, writes data for it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dyvte.bench.provenance import Provenance
from dyvte.cli.usage import CommandError, Parser, nearest, whole

USAGE = """\
usage: dyvte demo COMMAND …

  train      train the embedded model from nothing; the same command goes on where it stopped
  evaluate   answer unseen pictures with it, per kind of question and forced exit layer
  render     write drawn pictures with questions, as data for the other commands"""


def run(argv: Sequence[str]) -> int:
    """Train, measure or draw."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "render": _render,
    }
    name, *rest = argv
    if name not in commands:
        remedy = nearest(name, commands) or f"known: {', '.join(commands)}"
        raise CommandError(f"unknown command {name!r}", remedy)
    return commands[name](rest)


def _train(argv: Sequence[str]) -> int:
    parser = Parser(
        "dyvte demo train",
        "Train the embedded model; progress is kept in --out. make demo-gates makes its gates.",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the run")
    add("--pictures", type=whole(1), metavar="N", help="pictures drawn for it")
    add("--workers", type=whole(1), metavar="N", help="processes of one thread each")
    args = parser.read(argv)
    given = {
        name: getattr(args, name)
        for name in ("pictures", "workers")
        if getattr(args, name) is not None
    }

    from dyvte.demo.recipe import train  # torch loads here

    folder = train(args.out, **given)
    print(f"{folder}: gates for it with make demo-gates DEMO_MODEL={folder}")
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    parser = Parser(
        "dyvte demo evaluate",
        "Exact answers per kind of question on unseen pictures, with no exit and with an exit "
        "forced after each layer.",
    )
    add = parser.add_argument
    _add_model(parser)
    add("--pictures", type=whole(1), default=2000, metavar="N", help="unseen pictures")
    add("--questions", type=whole(1), default=8, metavar="N", help="questions to each")
    add("--no-exits", action="store_true", help="only what the whole model answers")
    args = parser.read(argv)
    _check_writable(args.json)

    from dyvte.demo.evaluate import evaluate, show  # torch loads here
    from dyvte.models.registry import find

    result = evaluate(
        find(args.model),
        pictures=args.pictures,
        questions=args.questions,
        exits=not args.no_exits,
    )
    show(result)
    _write(args.json, ["evaluate", *argv], asdict(result))
    return 0


def _render(argv: Sequence[str]) -> int:
    parser = Parser(
        "dyvte demo render",
        "Draw pictures with questions: PNG files and a JSONL of chat messages with answers, for "
        "--data of the other commands. The same numbers give the same files everywhere.",
    )
    add = parser.add_argument
    add("--split", required=True, help="train, gates, calibration or test; they share no picture")
    add("--count", type=whole(1), required=True, metavar="N", help="pictures")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--skip", type=whole(0), default=0, metavar="N", help="leave out the split's first ones")
    add("--questions", type=whole(1), default=1, metavar="K", help="rows to each picture")
    add("--turns", default="1", metavar="T,…", help="questions to a chat; 1,1,2: every third has 2")
    add("--shift", metavar="KIND", help="pictures unlike training's: background or size")
    args = parser.read(argv)
    try:
        turns = tuple(whole(1)(each) for each in args.turns.split(","))
    except argparse.ArgumentTypeError as error:
        raise CommandError(f"--turns: {error}", "give counts with commas, as in 1,1,2") from None

    from dyvte.demo.export import Export, write

    export = Export(args.split, args.count, args.skip, args.questions, turns, args.shift)
    print(write(export, args.out))
    return 0


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", default="demo", help="demo, or the folder of a run")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there as well")


def _check_writable(out: Path | None) -> None:
    """A folder that does not exist must not cost a whole run. Raises OSError."""
    if out is not None:
        out.touch()


def _write(out: Path | None, command: Sequence[str], figures: Any) -> None:
    if out is not None:
        origin = asdict(Provenance.here(["dyvte", "demo", *command]))
        text = json.dumps({"provenance": origin, "figures": figures}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")
