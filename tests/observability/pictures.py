"""Half an hour of the demo under Prometheus, drawn: the pictures in docs/figures/dashboards.

    python -m tests.observability.pictures --minutes 30

The rules are the deployed ones, their windows untouched; scrapes come every five seconds. Traffic
changes as a day's does: calm, a rush, a client who asks for more, one who sends no images.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.grafana.render import __main__ as renderer
from tests.observability.scenario import FLAGS
from tests.observability.stack import Stack
from tests.observability.traffic import (
    BAD_OPTION,
    BROKEN,
    DEFAULT,
    EAGER,
    FIXED,
    OFF,
    PRUNED,
    STATE,
    TEXT,
    TWO,
    UNKNOWN_MODEL,
    Clients,
    Kind,
)

SCRAPE = "5s"
SHARE = "0.5"
USUAL = (*(DEFAULT,) * 9, *(OFF,) * 3, *(FIXED,) * 3, *(STATE,) * 2, PRUNED, TWO, *(TEXT,) * 2)
# Share of the time, what is sent, requests in a second.
ACTS: tuple[tuple[float, Sequence[Kind], float], ...] = (
    (0.25, USUAL, 1.0),
    (0.15, (*USUAL, DEFAULT, DEFAULT, TWO), 2.2),
    (0.20, (*USUAL, *(EAGER,) * 4), 1.2),
    (0.15, (*USUAL, *(BROKEN,) * 2, BAD_OPTION, UNKNOWN_MODEL), 1.0),
    (0.25, (*USUAL, TEXT, TEXT), 1.4),
)


def drive(clients: Clients, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
    """Requests at random moments, act by act."""
    draw = random.Random(0)
    begin = now()
    ends = itertools.accumulate(share * 60 * minutes for share, _, _ in ACTS)
    for (_, kinds, rate), end in zip(ACTS, ends, strict=True):
        while now() < begin + end:
            clients.send(draw.choice(kinds))
            threading.Event().wait(draw.expovariate(rate))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, drive, draw."""
    parser = argparse.ArgumentParser("python -m tests.observability.pictures", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/dashboards"))
    args = parser.parse_args(argv)
    stack = Stack(Path(tempfile.mkdtemp(prefix="dyvte-")), quick=False)
    try:
        stack.serve("main", *FLAGS, "--shadow-share", SHARE)
        stack.watch(("main",), scrape=SCRAPE)
        clients = Clients(stack.url("main"), workers=16)
        drive(clients, args.minutes)
        clients.close()
        sys.stdout.write(f"answers by status: {clients.statuses}\n")
        url = stack.url("prometheus")
        last = f"{60 * args.minutes:.0f}s"
        options = ["--prometheus", url, "--last", last, "--scrape", SCRAPE]
        return renderer.main([*options, "--out", str(args.out)])
    finally:
        stack.close()


if __name__ == "__main__":
    sys.exit(main())
