"""`dyvte check MODEL`: does it load, what is in it, and what will a request cost on it.

Where a folder has no weights, or with `--no-weights`, nothing but its configs is read.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dyvte.cli.usage import FOREIGN, Parser, add_reading, reading, whole

if TYPE_CHECKING:
    from dyvte.inspection import Inspection
    from dyvte.model import Model
    from dyvte.sizing import Serving

MOST_PIXELS = 100_000_000
SIZES = ((336, 336), (640, 480), (1280, 720), (1024, 1024))
DESCRIPTION = """\
What a model is and what it costs: parts, parameters, visual tokens by image size, gates, FLOPs and
KV bytes of a request with exits at some layers, memory for many requests at once. Works without
weights (--no-weights, or a folder that holds only configs), so for models of any size."""


def run(argv: Sequence[str]) -> int:
    """Load or build, and print."""
    args = _parser().read(argv)

    from dyvte.inspection import inspect  # torch loads here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _open(args)
        found = inspect(
            model,
            args.image or SIZES,
            args.prompt_tokens,
            args.output_tokens,
            _serving(args, model),
            on_cpu=not _on_cuda(args.device),
        )
    if args.json:
        print(json.dumps(as_json(found), ensure_ascii=False))
    else:
        from rich.console import Console

        from dyvte.cli.check_tables import show

        show(found, Console())
    return 0


def as_json(found: Inspection) -> dict[str, Any]:
    """Plain values, with the sums that the tables show."""
    plain = asdict(found)
    for each, cost in zip(plain["requests"], found.requests, strict=True):
        each["flops"] |= {"total": cost.flops.total, "saved_ratio": cost.flops.saved_ratio}
    for each, needed in zip(plain["memory_estimate"], found.memory_estimate, strict=True):
        each["total"] = needed.total
    return plain


def picture_size(text: str) -> tuple[int, int]:
    """A type for ``add_argument``: WxH. Such a picture is made, so its size has a limit."""
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    if not match or not all(map(int, match.groups())):
        raise argparse.ArgumentTypeError(
            f"must be WxH in pixels, for example 640x480, not {text!r}"
        )
    width, height = int(match[1]), int(match[2])
    if width * height > MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"must have at most {MOST_PIXELS} pixels, not {text!r}")
    return width, height


def _parser() -> Parser:
    parser = Parser("dyvte check", DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="demo, a folder or a hub id")
    add("--gates", metavar="DIR", help="gates kept apart from the model")
    add("--foreign-gates", action="store_true", help=FOREIGN)
    add("--no-weights", action="store_true", help="read configs only, though weights are there")
    add(
        "--image",
        type=picture_size,
        nargs="+",
        metavar="WxH",
        help="image sizes; the request has one of the first (default: 336x336 and three more)",
    )
    add("--prompt-tokens", type=whole(1), default=64, metavar="N", help="text tokens of the prompt")
    add("--output-tokens", type=whole(1), default=64, metavar="N", help="tokens generated")
    add("--concurrency", type=whole(1), default=8, metavar="N", help="requests at once")
    add("--json", action="store_true", help="one JSON object instead of tables")
    add_reading(parser, devices="auto, cpu, cuda, …; without weights any will do")
    return parser


def _open(args: argparse.Namespace) -> Model:
    from dyvte.model import build, load
    from dyvte.models import registry

    folder = registry.find(args.model, args.allow_pickle, weights=not args.no_weights)
    files = (*folder.rglob("*.safetensors"), *folder.rglob("*.bin"))
    weights = any(file.parent.name != "gates" for file in files)
    opener = build if args.no_weights or not weights else load
    return opener(
        args.model, args.gates, args.device, args.dtype, args.foreign_gates, *reading(args)
    )


def _serving(args: argparse.Namespace, model: Model) -> Serving:
    from dyvte.engine.build import CPU_PAGE, CUDA_PAGE
    from dyvte.engine.plan import Limits
    from dyvte.sizing import Serving

    page = CUDA_PAGE if _on_cuda(args.device) else CPU_PAGE
    rows = Limits().max_group_rows
    return Serving(args.concurrency, page, rows, model.adapter.dtype.itemsize)


def _on_cuda(device: str) -> bool:
    import torch

    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
