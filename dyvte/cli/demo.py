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
    parser = Parser("dyvte demo train", "Train the embedded model; progress is kept in --out.")
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

    print(train(args.out, **given))
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    raise NotImplementedError
