"""`dyvte generate IMAGE… QUESTION`: one answer, and what its visual tokens did and did not cost.

Uses the library's front (`dyvte.load`, `dyvte.generate`) as any program would.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dyvte.cli.account import as_json, as_line
from dyvte.cli.picture import open_picture
from dyvte.cli.usage import (
    FOREIGN,
    CommandError,
    Parser,
    add_reading,
    add_weights,
    number,
    reading,
    whole,
)
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import DETAILS

if TYPE_CHECKING:
    from dyvte.prompt import Message


def run(argv: Sequence[str]) -> int:
    """Print the answer and one line of account, or both as JSON."""
    args = _parser().read(argv)
    exits = _exits(args)
    sampling = SamplingParams(
        max_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed
    )
    message = _message(args.words, args.detail)

    import dyvte  # torch loads here, after everything that can be refused without it

    model = dyvte.load(
        args.model,
        args.gates,
        args.device,
        args.dtype,
        args.foreign_gates,
        *reading(args),
        weights=args.weights,
    )
    started = time.perf_counter()
    prompt = model.prompt([message])
    (result,) = dyvte.generate(model, [prompt], sampling=sampling, exits=exits)
    seconds = time.perf_counter() - started
    if args.json:
        print(json.dumps(as_json(result, args.model, seconds), ensure_ascii=False))
    else:
        print(result.text)
        print(as_line(result.stats, seconds))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte generate",
        "One answer on the terminal, with its exit layer and FLOPs.",
        usage='dyvte generate [options] [IMAGE …] "QUESTION"',
    )
    parser.add_argument("words", nargs="+", metavar="IMAGE … QUESTION", help="the question last")
    parser.add_argument("--model", default="demo", help="demo, a folder or a hub id")
    parser.add_argument("--gates", metavar="DIR", help="gates kept apart from the model")
    parser.add_argument("--foreign-gates", action="store_true", help=FOREIGN)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--aggressiveness", type=number, metavar="A", help="0 never exits … 1 as soon as allowed"
    )
    choice.add_argument(
        "--exit-layer", type=whole(0), metavar="E", help="the last layer that sees the image"
    )
    choice.add_argument("--no-exit", action="store_true", help="keep the image to the last layer")
    parser.add_argument("--min-layer", type=whole(0), metavar="L", help="gates fire from here on")
    parser.add_argument("--max-layer", type=whole(0), metavar="L", help="gates fire up to here")
    detail = "how finely pictures are looked at (default: auto)"
    parser.add_argument("--detail", choices=DETAILS, default="auto", help=detail)
    parser.add_argument("--max-tokens", type=whole(1), default=128, metavar="N")
    parser.add_argument("--temperature", type=number, default=0.0, metavar="T")
    parser.add_argument("--seed", type=whole(0), metavar="S")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add_reading(parser)
    add_weights(parser)
    return parser


def _exits(args: argparse.Namespace) -> ExitOptions | None:
    """None leaves the choice to the model's own default."""
    layers = {"min_layer": args.min_layer, "max_layer": args.max_layer}
    if args.no_exit:
        return ExitOptions(policy="off", **layers)
    if args.exit_layer is not None:
        return ExitOptions(policy="fixed", exit_layer=args.exit_layer, **layers)
    if args.aggressiveness is None and layers == {"min_layer": None, "max_layer": None}:
        return None
    return ExitOptions(aggressiveness=args.aggressiveness, **layers)


def _message(words: Sequence[str], detail: str) -> Message:
    """One user message: the images in order, then the question."""
    *paths, question = words
    if os.path.isfile(question):
        raise CommandError(f"no question after {question}", "give the question last, in quotes")
    if not question.strip():
        raise CommandError("the question is empty", "give the question last, in quotes")
    pictures = [{"type": "image", "image": open_picture(path), "detail": detail} for path in paths]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": question}]}
