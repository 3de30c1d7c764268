"""How requests are sent: so many at a time, or at random moments at a given rate.

A closed loop (``concurrency`` callers, each asking again when it is answered) shows throughput;
an open loop (``rate`` requests a second, Poisson) shows the latency of a service whose users do
not wait for each other. There times count from the moment a request was due, so that a slow
server cannot hide behind requests that were sent late.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from dyvte.bench.stream import Answer, Failure, ask


@dataclass(frozen=True, slots=True)
class Load:
    """``rate`` None is the closed loop; with a rate, ``concurrency`` None sets no bound."""

    requests: int = 32
    concurrency: int | None = 8
    rate: float | None = None
    seed: int = 0

    def starts(self) -> list[float]:
        """Seconds after the beginning at which each request is due."""
        if self.rate is None:
            return [0.0] * self.requests
        draw = random.Random(self.seed)
        now = 0.0
        starts = []
        for _ in range(self.requests):
            starts.append(now)
            now += draw.expovariate(self.rate)
        return starts


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that came back, and the seconds from the first request to the last answer."""

    outcomes: tuple[Answer | Failure, ...]
    seconds: float

    @property
    def answers(self) -> list[Answer]:
        """The requests that were answered."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Answer)]

    @property
    def failures(self) -> list[Failure]:
        """The requests that were not."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]


async def drive(
    client: httpx.AsyncClient,
    bodies: Sequence[bytes],
    load: Load,
    on_done: Callable[[], None] = lambda: None,
) -> Run:
    """Send ``bodies`` as ``load`` says; ``on_done`` is called after each."""
    gate = asyncio.Semaphore(load.concurrency or len(bodies))
    begin = time.perf_counter()

    async def one(body: bytes, start: float) -> Answer | Failure:
        due = begin + start
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        async with gate:
            outcome = await ask(client, body, due if load.rate else time.perf_counter())
        on_done()
        return outcome

    outcomes = await asyncio.gather(*map(one, bodies, load.starts()))
    return Run(tuple(outcomes), time.perf_counter() - begin)
