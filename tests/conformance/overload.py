"""``make overload``: five times more requests than the server can do.

First its capacity: as many clients as it has places, each asking again when answered. Then
requests arrive at five times that rate, whatever becomes of those before. Told are the answers
that came to their end, how fast the others were turned away, and how long the first token of an
admitted request took. Client and server share this machine's cores, which the numbers contain.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.conformance.questions import questions
from tests.conformance.served import served
from tests.server.examples import CHAT

PLACES, WAITING = 8, 8
FLAGS = ("--max-num-seqs", str(PLACES), "--max-waiting", str(WAITING), "--log-level", "error")
FACTOR = 5
GOODPUT, REFUSED_WITHIN_S = 0.9, 0.05


@dataclass(slots=True)
class Seen:
    """What the clients met: seconds, and replies that are neither 200 nor 429."""

    finished: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def ask(client: httpx.AsyncClient, request: dict[str, Any], seen: Seen) -> None:
    """One streamed request, timed."""
    began = time.monotonic()
    try:
        async with client.stream("POST", CHAT, json=request) as reply:
            if reply.status_code == 429:
                seen.refused.append(time.monotonic() - began)
                assert "retry-after" in reply.headers
                return
            text = b""
            async for piece in reply.aiter_bytes():
                if b'"content":"' in piece and b'"content":"' not in text:
                    seen.first_token.append(time.monotonic() - began)
                text += piece
    except httpx.HTTPError as error:
        seen.faults.append(f"{type(error).__name__}: {error}")
        return
    if reply.status_code == 200 and text.endswith(b"data: [DONE]\n\n"):
        seen.finished.append(time.monotonic())
    else:
        seen.faults.append(f"{reply.status_code}: {text[-200:]!r}")


async def capacity(
    client: httpx.AsyncClient, asked: Sequence[dict[str, Any]], seconds: float
) -> float:
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
    client: httpx.AsyncClient, asked: Sequence[dict[str, Any]], rate: float, seconds: float
) -> tuple[Seen, float]:
    """Requests at ``rate`` a second; what became of them, and answers a second."""
    seen, rng, began = Seen(), random.Random(0), time.monotonic()
    at = began
    async with asyncio.TaskGroup() as group:
        while (at := at + rng.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            group.create_task(ask(client, rng.choice(asked), seen))
    return seen, sum(ended < began + seconds for ended in seen.finished) / seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie; not a number where there are none."""
    return (
        sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
    )


async def run(seconds: float) -> int:
    """Measure, flood, compare."""
    asked = [{**request, "stream": True, "max_tokens": 12} for request in questions(40)]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    with served(*FLAGS) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
            await capacity(client, asked, seconds / 4)
            peak = await capacity(client, asked, seconds)
            seen, goodput = await flood(client, asked, FACTOR * peak, seconds)
            again = await capacity(client, asked, seconds)
    bound = (PLACES + WAITING) / peak
    slowest = percentile(seen.first_token, 0.99)
    say(f"load average {os.getloadavg()[0]:.1f}; {seconds:g} s each")
    say(f"capacity {peak:.2f}/s before, {again:.2f}/s after; offered {FACTOR * peak:.2f}/s")
    say(f"goodput {goodput:.2f}/s: {goodput / ((peak + again) / 2):.0%} of capacity")
    say(f"{len(seen.refused)} refused: {_spread(seen.refused)}")
    share = sum(taken <= REFUSED_WITHIN_S for taken in seen.refused) / max(1, len(seen.refused))
    say(f"  within {1000 * REFUSED_WITHIN_S:g} ms: {share:.1%}")
    admitted = f"{len(seen.first_token)} admitted, first token: {_spread(seen.first_token)}"
    say(f"{admitted}; a full house takes {bound:.2f} s")
    for line in seen.faults[:10]:
        say(f"FAULT {line}")
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
    parser.add_argument("--seconds", type=float, default=60)
    return asyncio.run(run(parser.parse_args().seconds))


if __name__ == "__main__":
    sys.exit(main())
