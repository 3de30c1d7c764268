"""``make soak``: minutes of mixed load at saturation, and what the server holds before and after.

Of the clients 10 % leave at a random moment, 5 % send broken bodies, 5 % bodies above the limit;
the others ask greedy questions whose answers, computed one by one before, must come back. No
reply may be a 5xx, no stream may end in an error, and afterwards pages, slots, threads, files and
tasks are what they were and memory stayed within 3 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.conformance.mutations import mutated_body
from tests.conformance.process import Held
from tests.conformance.questions import questions
from tests.conformance.served import Served, served
from tests.server.examples import CHAT

MAX_BODY = 2**20
FLAT = 0.03
FLAGS = ("--max-num-seqs", "8", "--max-waiting", "16", "--max-body", str(MAX_BODY))
METRICS = ("dyvte_requests_running", "dyvte_requests_waiting", "dyvte_kv_cache_usage_ratio")


@dataclass(slots=True)
class Seen:
    """What the clients met."""

    replies: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rss: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Soak:
    """One run's parts; ``solo`` holds the answer of each question."""

    client: httpx.AsyncClient
    asked: list[dict[str, Any]]
    solo: list[str]
    seen: Seen
    until: float

    async def worker(self, number: int) -> None:
        """One client after another, until the time is over.

        A body above the limit is answered before it was read whole, and then the connection is
        closed: a client still writing may see that as a reset. These are counted apart.
        """
        rng = random.Random(number)
        while time.monotonic() < self.until:
            kind, act = self._next(rng)
            try:
                await act
            except httpx.HTTPError as error:
                self.seen.replies[f"{kind} {type(error).__name__}"] += 1
                if kind != "oversize":
                    self.seen.faults.append(f"{kind}: {type(error).__name__}: {error}")

    def _next(self, rng: random.Random) -> tuple[str, Coroutine[Any, Any, None]]:
        """What the next client does."""
        roll = rng.random()
        if roll < 0.10:
            return "left", self._leave(rng)
        if roll < 0.15:
            return "malformed", self._send("malformed", mutated_body(self.asked, rng))
        if roll < 0.20:
            return "oversize", self._send("oversize", b" " * (MAX_BODY + rng.randint(1, 999)))
        return "asked", self._ask(rng)

    async def _send(self, kind: str, body: bytes) -> None:
        self._judge(kind, await self._post(body))

    async def _post(self, body: bytes) -> httpx.Response:
        return await self.client.post(
            CHAT, content=body, headers={"Content-Type": "application/json"}
        )

    def _judge(self, kind: str, reply: httpx.Response) -> None:
        self.seen.replies[f"{kind} {reply.status_code}"] += 1
        if reply.status_code >= 500 or b'data: {"error"' in reply.content:
            self.seen.faults.append(f"{kind}: {reply.status_code} {reply.text[-300:]}")

    async def _leave(self, rng: random.Random) -> None:
        """Go away at once, while waiting, or in the middle of the stream."""
        request = {**rng.choice(self.asked), "stream": rng.random() < 0.7}
        self.seen.replies["left"] += 1
        try:
            async with asyncio.timeout(rng.choice((0.01, 0.1, 0.5, 2.0)) * rng.random()):
                async with self.client.stream("POST", CHAT, json=request) as reply:
                    async for _ in reply.aiter_bytes():
                        pass
        except TimeoutError:
            pass

    async def _ask(self, rng: random.Random) -> None:
        """Ask, whole or streamed; compare with the answer that the question has alone."""
        at = rng.randrange(len(self.asked))
        stream = rng.random() < 0.5
        reply = await self.client.post(CHAT, json={**self.asked[at], "stream": stream})
        self._judge("asked", reply)
        if reply.status_code == 429:
            await asyncio.sleep(rng.random())
        elif reply.status_code == 200:
            text = streamed(reply) if stream else whole(reply)
            if text != self.solo[at]:
                self.seen.faults.append(f"question {at}: {text!r}, alone {self.solo[at]!r}")
        else:
            self.seen.faults.append(f"question {at}: {reply.status_code} {reply.text[:300]}")


def whole(reply: httpx.Response) -> str:
    """The text of a reply."""
    return str(reply.json()["choices"][0]["message"]["content"])


def streamed(reply: httpx.Response) -> str:
    """The text of a stream's chunks."""
    lines = [line for line in reply.text.split("\n\n") if line.startswith("data: {")]
    deltas = [
        choice["delta"].get("content") or ""
        for line in lines
        for choice in json.loads(line.removeprefix("data: "))["choices"]
    ]
    return "".join(deltas)


async def look(client: httpx.AsyncClient, server: Served) -> dict[str, float]:
    """Everything that a request takes and must give back, once the server is idle."""
    for _ in range(300):
        page = (await client.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith(METRICS)]
        counts = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
        if not any(counts.values()):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    held = Held.by(server.pid)
    tasks = (await client.get("/tasks")).json()["tasks"]
    return {**counts, "threads": held.threads, "files": held.files, "tasks": tasks}


async def watch(server: Served, seen: Seen, began: float) -> None:
    """Resident memory, every two seconds."""
    while True:
        seen.rss.append((time.monotonic() - began, Held.by(server.pid).rss))
        await asyncio.sleep(2)


def drift(rss: list[tuple[float, int]], seconds: float) -> float:
    """Change of the median resident memory from the second fifth of a run to its last."""
    fifth = seconds / 5
    early = [held for at, held in rss if fifth <= at < 2 * fifth]
    late = [held for at, held in rss if at >= 4 * fifth]
    return statistics.median(late) / statistics.median(early) - 1


async def load(server: Served, seconds: float, clients: int, solo: list[str]) -> Seen:
    """``clients`` at once for ``seconds``."""
    seen, began = Seen(), time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        soak = Soak(client, questions(len(solo)), solo, seen, began + seconds)
        watching = asyncio.create_task(watch(server, seen, began))
        await asyncio.gather(*(soak.worker(number) for number in range(clients)))
        watching.cancel()
    return seen


async def run(minutes: float, clients: int) -> int:
    """Solo answers, a first short load, the load, and the comparison."""
    asked = questions(40)
    with served(*FLAGS, module="tests.conformance.counted") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            solo = [whole(await client.post(CHAT, json=request)) for request in asked]
            await load(server, 10, clients, solo)
            before = await look(client, server)
        seen = await load(server, 60 * minutes, clients, solo)
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            after = await look(client, server)
    changed = drift(seen.rss, 60 * minutes)
    grown = [
        f"{name}: {before[name]:g} → {after[name]:g}"
        for name in before
        if after[name] > before[name]
    ]
    if abs(changed) > FLAT:
        grown.append(f"memory: {changed:+.1%}")
    say(f"{minutes:g} minutes, {clients} clients, load average {os.getloadavg()[0]:.1f}")
    say(f"replies: {dict(sorted(seen.replies.items()))}")
    say(f"before {before}, after {after}")
    say(f"memory: {seen.rss[0][1] / 2**20:.0f} … {seen.rss[-1][1] / 2**20:.0f} MiB, {changed:+.1%}")
    every = max(1, len(seen.rss) // 10)
    say("  over time: " + ", ".join(f"{held / 2**20:.0f}" for _, held in seen.rss[::every]))
    for line in (*seen.faults[:20], *grown):
        say(f"FAULT {line}")
    say(f"{len(seen.faults)} faults, {len(grown)} leaks")
    return 1 if seen.faults or grown else 0


def say(line: str) -> None:
    """Tell at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=28)
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.minutes, arguments.clients))


if __name__ == "__main__":
    sys.exit(main())
