"""`dyvte collect`: what gates are made from, read off a frozen model on a user's own questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.cli.progress import Bar
from dyvte.cli.usage import CommandError, Parser, add_reading, add_weights, whole
from dyvte.errors import OptionError

if TYPE_CHECKING:
    from dyvte.training.collect import Plan
    from dyvte.training.gather import Gathered, Survey

LABELS = ("auto", "paper", "self", "both")


def run(argv: Sequence[str]) -> int:
    """Collect, or go on where a killed run stopped; say what was passed over."""
    args = _parser().read(argv)
    if not args.data.is_file():
        raise CommandError(f"--data {args.data} is not a file", "give a JSON or JSONL file")
    if args.images is not None and not args.images.is_dir():
        raise CommandError(f"--images {args.images} is not a folder", "give the images' folder")

    import dyvte  # torch loads here, after what can be refused without it
    from dyvte.training.gather import Collecting, Source, survey
    from dyvte.training.layers import choose_layers

    source = Source(args.data, args.images, args.limit)
    with _about("--data"):
        found = survey(source)
    labels = _labels(args.labels, found)
    model = dyvte.load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        allow_pickle=args.allow_pickle,
        token_order=args.token_order,
        weights=args.weights,
    )
    plan = _plan(labels, args, choose_layers(args.layers, model.adapter.decoder.num_layers))
    with Bar("collecting", found.samples) as bar, _about("--out"):
        work = Collecting(model, source, plan, args.batch, args.shard, bar.update)
        gathered = work.into(args.out, found)
    _tell(args.out, labels, gathered)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte collect",
        "Statuses, labels and signals of a frozen model at every layer, for dyvte train and "
        "dyvte calibrate. The same command goes on where a killed run stopped.",
    )
    add = parser.add_argument
    add("--model", default="demo", help="demo, a folder or a hub id")
    add("--data", type=Path, required=True, metavar="FILE", help="OpenAI messages or LLaVA's JSON")
    add("--images", type=Path, metavar="DIR", help="where image paths begin (the file's folder)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the collection")
    add(
        "--labels",
        choices=LABELS,
        default="auto",
        help="paper: on given answers; self: on the model's own; auto: both where every sample "
        "has an answer, else self",
    )
    add("--layers", default="all", metavar="L", help="all, /2, 4,8,12 or 8-20/4")
    add("--signals", default="all", metavar="S", help="all, none or names, for the policy state")
    add("--max-tokens", type=whole(1), default=64, metavar="N", help="of the model's own answers")
    add("--limit", type=whole(1), metavar="N", help="only the first samples")
    add("--batch", type=whole(1), default=16, metavar="N", help="samples run together")
    add("--shard", type=whole(1), default=256, metavar="N", help="samples in a file")
    add_reading(parser)
    add_weights(parser)
    return parser


def _labels(wanted: str, found: Survey) -> tuple[bool, bool]:
    """(the paper's, the model's own)."""
    if wanted == "auto":
        return found.answered == found.samples, True
    if wanted != "self" and not found.answered:
        raise OptionError("labels", f"{wanted} needs answers and the data has none; use self")
    return wanted != "self", wanted != "paper"


def _plan(labels: tuple[bool, bool], args: argparse.Namespace, layers: tuple[int, ...]) -> Plan:
    from dyvte.exits.signals import SIGNALS
    from dyvte.training.collect import Plan

    given = {"all": tuple(SIGNALS), "none": ()}
    names = given.get(args.signals) or tuple(filter(None, args.signals.split(",")))
    if args.signals == "none":
        names = ()
    for name in names:
        if name not in SIGNALS:
            raise OptionError("signals", f"{name!r} is not one of {', '.join(SIGNALS)}")
    return Plan(labels[0], labels[1], layers, names, args.max_tokens)


@contextmanager
def _about(flag: str) -> Iterator[None]:
    """Errors about data name the flag that brought them."""
    from dyvte.data import DataError

    try:
        yield
    except DataError as error:
        raise DataError(f"{flag}: {error}") from error


def _tell(out: Path, labels: tuple[bool, bool], gathered: Gathered) -> None:
    from dyvte.data import Skips

    kinds = " and ".join(name for name, on in zip(("paper", "self"), labels, strict=True) if on)
    skips = Skips(sorted(gathered.skipped, key=lambda skip: skip.line))
    for line in skips.report():
        print(f"skipped {line}", file=sys.stderr)
    print(f"{out}: {gathered.samples} samples, labels {kinds}, {skips.count} rows skipped")
