"""``python -m benchmarks.peers``: measure what is missing, then write table and picture.

    python -m benchmarks.peers --only dyvte vllm openvino --rounds 5

Goes on where an earlier call with the same ``--out`` stopped. ``--report`` measures nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.machine import QUIET_CORES
from benchmarks.peers.campaign import Campaign, plan
from benchmarks.peers.compare import compare
from benchmarks.peers.measure import Meter
from benchmarks.peers.page import peers_text, picture, put
from benchmarks.peers.plots import draw
from benchmarks.peers.processes import Fleet
from benchmarks.peers.records import Ledger
from benchmarks.peers.servers import Server, chosen, read_servers
from benchmarks.peers.workloads import CAPACITY, WORKLOADS, sized
from dyvte.bench.provenance import Provenance

HERE = Path(__file__).parent
MARKER = "peers"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("--servers", type=Path, default=HERE / "servers.toml")
    add("--only", nargs="+", metavar="NAME", help="default: every server that is installed")
    add("--model", type=Path, default=Path("runs/models/bench-small"), help="$model in the file")
    add("--peers", type=Path, default=Path("runs/servers"), help="$peers there: environments")
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="W")
    add("--requests", nargs="+", type=_size, default=[], metavar="W=N", help="requests of a run")
    add("--rounds", type=int, default=5)
    add("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    add("--out", type=Path, default=Path("runs/peers"))
    add("--busy", action="store_true", help="keep disturbed runs: to try it out, not to measure")
    add("--report", action="store_true", help="write table and picture of what there is")
    add("--page", type=Path, help="put the table there, between its markers")
    add("--figure", type=Path, help="where the picture goes")
    return parser.parse_args(argv)


def _size(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in WORKLOADS or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not like W2=16")
    return name, int(number)


def circumstances(servers: Sequence[Server]) -> dict[str, Any]:
    """Command, commit, machine, the rule, and what every server is and how it is started."""
    here = Provenance.here(["python", "-m", "benchmarks.peers", *sys.argv[1:]])
    return asdict(here) | {
        "quiet_cores": QUIET_CORES,
        "versions": {server.name: versions(server) for server in servers},
        "commands": {server.name: shlex.join(server.command) for server in servers},
        "environments": {server.name: dict(server.environment) for server in servers},
    }


def versions(server: Server) -> Mapping[str, str]:
    """Of the server's distributions, asked of its own Python."""
    if not server.versions:
        return {}
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    command = [server.python, "-c", code, *server.versions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return dict(zip(server.versions, done.stdout.split(), strict=True))


def measure(args: argparse.Namespace, servers: Sequence[Server], ledger: Ledger) -> bool:
    """Run what is missing; True if nothing is left. Ends the servers it started."""
    workloads = sized(args.workloads, dict(args.requests))
    entries = [entry for server in servers for entry in server.entries()]
    fleet = Fleet(args.out / "logs")
    quiet = math.inf if args.busy else QUIET_CORES
    meter = Meter(fleet, ledger.open_session(circumstances(servers)), quiet)
    campaign = Campaign(ledger, meter, say=_say, deadline=time.monotonic() + 60 * args.minutes)
    try:
        left = campaign.run(list(plan(entries, workloads, args.rounds)))
    finally:
        fleet.stop()
    for place in left:
        _say(f"missing: round {place.round} {place.workload} {place.entry}")
    return not left


def report(args: argparse.Namespace, peers: Sequence[str], ledger: Ledger) -> None:
    """Print the tables; put them and the picture where they were asked for."""
    text = peers_text(ledger, peers)
    print(text)
    records = ledger.read()
    rows = compare(records, peers)
    if args.figure and rows:  # else all that was measured was disturbed
        measured = {each.entry for each in records if each.workload != CAPACITY.name}
        entries = sorted(measured, key=lambda name: (name in peers, _order(records, name)))
        draw(rows, entries, peers, args.figure)
        if args.page:
            shown = picture(args.figure, args.page, "Medians, smallest and largest of the rounds")
            text = f"{text}\n\n{shown}"
    if args.page:
        put(args.page, MARKER, text)


def _order(records: Sequence[Any], name: str) -> int:
    return next(index for index, each in enumerate(records) if each.entry == name)


def _say(text: str) -> None:
    print(text, flush=True)


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit("ended; the same command goes on from here")


def main() -> int:
    """Measure and report."""
    args = parse()
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, _end)
    model = args.model.resolve()
    names = {
        "model": str(model),
        "peers": str(args.peers.resolve()),
        "python": sys.executable,
        "here": str(HERE),
        "path": os.environ.get("PATH", ""),
    }
    servers = read_servers(args.servers, names)
    ledger = Ledger(args.out)
    complete = True
    if not args.report:
        complete = measure(args, chosen(servers, args.only), ledger)
    if ledger.runs.exists():
        report(args, [server.name for server in servers if server.peer], ledger)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
