"""`dyvte bench`: load on an OpenAI-compatible server, and what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dyvte.bench.load import Load, Run, drive
from dyvte.bench.provenance import Provenance
from dyvte.bench.summary import Summary
from dyvte.bench.table import show
from dyvte.bench.workload import RANDOM, Workload
from dyvte.cli.usage import CommandError, Parser, above_zero, json_object, whole

DEFAULT_CONCURRENCY = 8


def run(argv: Sequence[str]) -> int:
    """Measure, print the table, write ``--json``."""
    args = _parser().read(argv)
    if args.json not in (None, "-"):
        Path(args.json).touch()  # a folder that does not exist must not cost a whole run
    load = Load(args.requests, _concurrency(args), args.rate, args.seed)
    workload, run_ = asyncio.run(_measure(args, load))
    summary = Summary.of(run_)
    if summary.failed == summary.requests:
        reason = next(iter(summary.reasons))
        raise CommandError(f"all {summary.requests} requests failed: {reason}", "see the server")
    if args.json != "-":
        show(summary, Console())
    if args.json is not None:
        _write(args, argv, workload, load, summary)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte bench",
        "Load on any OpenAI-compatible server: TTFT, TPOT, ITL, end-to-end time, throughput. "
        "Times count from sending a request or, with --rate, from when it was due.",
    )
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000/v1", metavar="URL")
    add("--model", help="default: the first that the server lists")
    add("--api-key", metavar="K", help="default: $OPENAI_API_KEY")
    add("--requests", type=whole(1), default=32, metavar="N")
    add("--concurrency", type=whole(1), metavar="N", help="at a time (8; no bound with --rate)")
    add("--rate", type=above_zero, metavar="R", help="requests a second at random moments")
    add("--warmup", type=whole(0), default=2, metavar="N", help="requests sent first, not counted")
    add("--max-tokens", type=whole(1), default=64, metavar="N")
    add("--ignore-eos", action="store_true", help="answers of full length, where the server can")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--image", default=RANDOM, metavar="PATH", help="a picture, or random")
    picture.add_argument("--text-only", action="store_true", help="no picture")
    add("--image-size", type=whole(1), default=336, metavar="PX", help="side of random pictures")
    add(
        "--extra",
        type=json_object,
        default={},
        metavar="JSON",
        help="""goes into every body, e.g. '{"dyvte": {"aggressiveness": 0.5}}'""",
    )
    add("--timeout", type=above_zero, default=600.0, metavar="S", help="seconds for one request")
    add("--seed", type=whole(0), default=0, metavar="S", help="other words and pictures")
    add("--json", metavar="OUT", help="write the figures there, - for standard output")
    return parser


def _concurrency(args: argparse.Namespace) -> int | None:
    if args.concurrency is None and args.rate is None:
        return DEFAULT_CONCURRENCY
    concurrency: int | None = args.concurrency
    return concurrency


async def _measure(args: argparse.Namespace, load: Load) -> tuple[Workload, Run]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    key = args.api_key or os.environ.get("OPENAI_API_KEY", "none")
    # No proxy from the environment: one would measure the proxy.
    async with httpx.AsyncClient(
        base_url=args.base_url,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=args.timeout,
        limits=limits,
        trust_env=False,
    ) as client:
        workload = _workload(args, await _model(client, args))
        # Warm-up asks for pictures and words of its own, so that no cache profits from it.
        warmup = [workload.body(-1 - k) for k in range(args.warmup)]
        bodies = [workload.body(k) for k in range(load.requests)]
        if warmup:
            await drive(client, warmup, Load(len(warmup), len(warmup)))
        with _progress(args.json == "-") as progress:
            task = progress.add_task("requests", total=load.requests)
            return workload, await drive(client, bodies, load, lambda: progress.advance(task))


def _workload(args: argparse.Namespace, model: str) -> Workload:
    return Workload(
        model=model,
        max_tokens=args.max_tokens,
        image=None if args.text_only else args.image,
        image_size=args.image_size,
        ignore_eos=args.ignore_eos,
        extra=args.extra,
        seed=args.seed,
    )


async def _model(client: httpx.AsyncClient, args: argparse.Namespace) -> str:
    """The model to ask for. Raises CommandError if nobody answers there."""
    try:
        reply = await client.get("models")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"--base-url {args.base_url}: {str(error) or type(error).__name__}"
        raise CommandError(what, "start a server with `make serve`, or name another") from None
    if args.model is not None:
        return str(args.model)
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError("--api-key: the server refuses it", "pass the server's key")
    try:
        return str(reply.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        what = f"--base-url {args.base_url}: lists no models"
        raise CommandError(what, "end it with /v1, or name one with --model") from None


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    disable = quiet or not console.is_terminal
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=disable)


def _write(
    args: argparse.Namespace,
    argv: Sequence[str],
    workload: Workload,
    load: Load,
    summary: Summary,
) -> None:
    command = ["dyvte", "bench", *argv]
    shown = [word.replace(args.api_key, "…") if args.api_key else word for word in command]
    figures: dict[str, Any] = {
        "provenance": asdict(Provenance.here(shown)),
        "base_url": args.base_url,
        "workload": asdict(workload),
        "load": asdict(load),
        "summary": summary.as_json(),
    }
    text = json.dumps(figures, indent=2)
    if args.json == "-":
        print(text)
    else:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
