"""`dyvte convert SRC DST`: an original checkpoint, once, as a folder that loads fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyvte.cli.account import si
from dyvte.cli.progress import Bar
from dyvte.cli.usage import PICKLE, CommandError, Parser

MB = 10**6


def run(argv: Sequence[str]) -> int:
    """Read, check, write, rename."""
    args = _parser().read(argv)
    target = args.dst.expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CommandError(f"DST {target} exists and is not empty", "name a new or an empty folder")

    from dyvte.models import registry  # torch loads here
    from dyvte.models.checkpoints.convert import dtypes, read_conversion

    conversion = read_conversion(registry.find(args.src, args.allow_pickle), args.allow_pickle)
    total = conversion.bytes
    with Bar("converting", max(1, total // MB), "MB") as bar:
        conversion.write(target, lambda done: bar.update(done // MB))
    gates = " and gates" if (target / "gates").exists() else ""
    stored = dtypes(conversion.native.state.values())
    print(f"{target}: {si(total)}B of weights in {stored}{gates}; load it with --model {target}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte convert",
        "Write a checkpoint in its authors' layout as a folder in transformers' layout: weights "
        "unchanged, with tokenizer, chat template, image processor and gates.",
    )
    parser.add_argument("src", metavar="SRC", help="a folder or a hub id")
    parser.add_argument("dst", metavar="DST", type=Path, help="the folder to write")
    parser.add_argument("--allow-pickle", action="store_true", help=PICKLE)
    return parser
