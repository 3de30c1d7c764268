"""``make overload``: five times more requests than the server can do.

First its capacity: as many clients as it has places, each asking again when answered. Then
requests arrive at five times that rate, whatever becomes of those before; then its capacity once
more. Told are the answers that came to their end, how fast the others were turned away, and how
long the first token of an admitted request took. The client has a core of its own where the
machine has more than two; else it shares them with the server, which the numbers contain.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.conformance.questions import questions
from tests.conformance.served import served
from tests.conformance.spare_client import SpareClient, post
from tests.server.examples import CHAT

PLACES, WAITING = 8, 8
FLAGS = ("--max-num-seqs", str(PLACES), "--max-waiting", str(WAITING), "--log-level", "error")
FACTOR = 5
GOODPUT, REFUSED_WITHIN_S = 0.9, 0.05
STEADY = 0.8  # of the higher capacity: below it, other work came or went meanwhile
DISTURBED = 2
ENDED = b"data: [DONE]\n\n\r\n0\r\n\r\n"


@dataclass(slots=True)
class Seen:
    """What the clients met: seconds, and replies that are neither 200 nor 429."""

    finished: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def ask(client: SpareClient, request: bytes, seen: Seen) -> None:
    """One streamed request, timed."""
    try:
        reply = await client.send(request)
    except (OSError, EOFError) as error:
        seen.faults.append(f"{type(error).__name__}: {error}")
        return
    if reply.status == 429 and b"retry-after:" in reply.head:
        seen.refused.append(reply.seconds)
    elif reply.status == 200 and reply.body.endswith(ENDED) and reply.first_token is not None:
        seen.first_token.append(reply.first_token)
        seen.finished.append(time.monotonic())
    else:
        seen.faults.append(f"{reply.status}: {reply.body[-200:]!r}")


async def capacity(client: SpareClient, asked: Sequence[bytes], seconds: float) -> float:
    """Answers a second with every place taken and nobody waiting."""
    seen, until = Seen(), time.monotonic() + seconds

    async def again(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            await ask(client, rng.choice(asked), seen)

    await asyncio.gather(*(again(number) for number in range(PLACES)))
    assert not seen.faults, seen.faults[:3]
    return sum(ended < until for ended in seen.finished) / seconds


async def flood(
    client: SpareClient, asked: Sequence[bytes], rate: float, seconds: float
) -> tuple[Seen, float]:
    """Requests at ``rate`` a second; what became of them, and answers a second."""
    seen, rng, began = Seen(), random.Random(0), time.monotonic()
    at = began
    async with asyncio.TaskGroup() as group:
        while (at := at + rng.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            group.create_task(ask(client, rng.choice(asked), seen))
    return seen, sum(ended < began + seconds for ended in seen.finished) / seconds


@contextmanager
def apart_from(pid: int) -> Iterator[None]:
    """The last core for this process and the others for the server's, if those are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 2:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores[:-1])
        os.sched_setaffinity(0, cores[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie; not a number where there are none."""
    return (
        sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
    )


async def run(seconds: float) -> int:
    """Measure, flood, compare."""
    asked = [post(CHAT, {**request, "stream": True, "max_tokens": 12}) for request in questions(40)]
    with served(*FLAGS) as server, apart_from(server.pid):
        client = SpareClient(server.url)
        await capacity(client, asked, seconds / 6)
        peak = await capacity(client, asked, seconds / 3)
        seen, goodput = await flood(client, asked, FACTOR * peak, seconds)
        again = await capacity(client, asked, seconds / 3)
        client.close()
    bound = (PLACES + WAITING) / peak
    slowest = percentile(seen.first_token, 0.99)
    say(f"load average {os.getloadavg()[0]:.1f}; {seconds:g} s of load")
    say(f"capacity {peak:.2f}/s before, {again:.2f}/s after; offered {FACTOR * peak:.2f}/s")
    say(f"goodput {goodput:.2f}/s: {goodput / ((peak + again) / 2):.0%} of capacity")
    say(f"{len(seen.refused)} refused: {_spread(seen.refused)}")
    share = sum(taken <= REFUSED_WITHIN_S for taken in seen.refused) / max(1, len(seen.refused))
    say(f"  within {1000 * REFUSED_WITHIN_S:g} ms: {share:.1%}")
    admitted = f"{len(seen.first_token)} admitted, first token: {_spread(seen.first_token)}"
    say(f"{admitted}; a full house takes {bound:.2f} s")
    for line in seen.faults[:10]:
        say(f"FAULT {line}")
    if min(peak, again) < STEADY * max(peak, again):
        say("DISTURBED by other work: nothing is proved; run it again when the machine is quiet")
        return DISTURBED
    kept = goodput >= GOODPUT * (peak + again) / 2 and slowest < 2 * bound and share >= 0.99
    return 0 if kept and not seen.faults else 1


def _spread(values: Sequence[float]) -> str:
    told = (
        f"p{round(100 * share)} {1000 * percentile(values, share):.0f} ms" for share in (0.5, 0.99)
    )
    return ", ".join(told)


def say(line: str) -> None:
    """Tell at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make overload")
    parser.add_argument("--seconds", type=float, default=60, help="of load")
    return asyncio.run(run(parser.parse_args().seconds))


if __name__ == "__main__":
    sys.exit(main())
