"""`dyvte demo train|evaluate`: makes the embedded model again, or measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dyvte.cli.usage import CommandError, Parser, nearest, whole

USAGE = """\
usage: dyvte demo COMMAND …

  train      train the embedded model from nothing; the same command goes on where it stopped
  evaluate   answer unseen pictures with it, per kind of question"""


def run(argv: Sequence[str]) -> int:
    """Train or evaluate."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    commands: dict[str, Callable[[Sequence[str]], int]] = {"train": _train, "evaluate": _evaluate}
    name, *rest = argv
    if name not in commands:
        remedy = nearest(name, commands) or f"known: {', '.join(commands)}"
        raise CommandError(f"unknown command {name!r}", remedy)
    return commands[name](rest)


def _train(argv: Sequence[str]) -> int:
    parser = Parser(
        "dyvte demo train", "Train the embedded model, then its gates; progress is kept in --out."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the run")
    add("--pictures", type=whole(1), metavar="N", help="pictures drawn for it")
    add("--workers", type=whole(1), metavar="N", help="processes of one thread each")
    add("--no-gates", action="store_true", help="leave the gates out")
    args = parser.read(argv)
    given = {
        name: getattr(args, name)
        for name in ("pictures", "workers")
        if getattr(args, name) is not None
    }

    from dyvte.demo.recipe import train  # torch loads here

    folder = train(args.out, **given)
    if not args.no_gates:
        from dyvte.demo.gates import train_gates

        train_gates(folder)
    print(folder)
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    parser = Parser(
        "dyvte demo evaluate",
        "Exact answers per kind of question on unseen pictures, with no exit and with an exit "
        "forced after each layer.",
    )
    add = parser.add_argument
    add("--model", default="demo", help="demo, or the folder of a run")
    add("--pictures", type=whole(1), default=2000, metavar="N", help="unseen pictures")
    add("--questions", type=whole(1), default=8, metavar="N", help="questions to each")
    add("--no-exits", action="store_true", help="only what the whole model answers")
    add("--json", type=Path, metavar="OUT", help="write the result there as well")
    args = parser.read(argv)

    from dyvte.demo.evaluate import evaluate, show  # torch loads here
    from dyvte.models.registry import find

    result = evaluate(
        find(args.model),
        pictures=args.pictures,
        questions=args.questions,
        exits=not args.no_exits,
        report=args.json,
    )
    show(result)
    return 0
