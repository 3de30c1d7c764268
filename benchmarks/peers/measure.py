"""One run: requests made, server woken, load driven, strangers watched, figures taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import httpx
import orjson

from benchmarks.machine import QUIET_CORES, Strangers
from benchmarks.peers.bodies import Source, body, conversations
from benchmarks.peers.processes import Fleet, Running
from benchmarks.peers.records import Place, Record
from benchmarks.peers.servers import Entry
from benchmarks.peers.workloads import TURNS, WORKLOADS, Pictures, Workload
from dyvte.bench.load import Load, Run, drive
from dyvte.bench.stream import Answer
from dyvte.bench.summary import Quantiles, Summary

TIMEOUT_SECONDS = 600.0
WARM_TOKENS = 8


class Meter:
    """Measures entries, one at a time. Warms each up once for every kind of run it meets.

    A run is kept if others used no more than ``quiet`` cores during it.
    """

    def __init__(self, fleet: Fleet, session: str, quiet: float = QUIET_CORES) -> None:
        self._fleet = fleet
        self._session = session
        self._quiet = quiet
        self._warm: set[tuple[int, str, str]] = set()

    def __call__(
        self, entry: Entry, workload: Workload, place: Place, attempt: int, seed: int
    ) -> Record:
        """One run. Raises ServerFailed."""
        running = self._fleet.only(entry.server)
        salt = f"{place.round}/{entry.name}/{attempt}/{self._session}"
        self._warm_up(running, entry, workload, salt)
        bodies = requests(entry, workload, Source(seed, salt))
        spent = _Spent(running)
        strangers = Strangers(spent)
        run = send(entry, bodies, workload, seed)
        others = strangers.cores()
        return record_of(
            run,
            workload,
            place,
            session=self._session,
            attempt=attempt,
            others=others,
            quiet=self._quiet,
            server=Condition(running.start_seconds, running.start_others, running.memory_bytes()),
        )

    def _warm_up(self, running: Running, entry: Entry, workload: Workload, salt: str) -> None:
        """The first time as many requests as run at once, later one short text that wakes it."""
        key = (running.popen.pid, entry.name, workload.name)
        if key in self._warm:
            small = replace(WORKLOADS["W5"], requests=1, concurrency=1, tokens=2)
        else:
            small = warm_up(workload)
        send(entry, requests(entry, small, Source(-1, f"warm-up/{salt}")), small, 0)
        self._warm.add(key)


class _Spent:
    """CPU seconds of the client and of the server under test."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def __call__(self) -> float:
        return time.process_time() + self._running.cpu_seconds()


def warm_up(workload: Workload) -> Workload:
    """``workload`` once around, with short answers."""
    at_once = min(workload.concurrency or 8, workload.requests)
    if workload.pictures is Pictures.TALK:
        at_once = TURNS
    return replace(
        workload, requests=at_once, concurrency=workload.concurrency or 8, tokens=WARM_TOKENS
    )


def requests(entry: Entry, workload: Workload, source: Source) -> list[bytes]:
    """The bodies of one run, with what the server and the entry add to them."""
    server = entry.server
    extra = {**server.request, **entry.extra}
    return [
        orjson.dumps(body(messages, server.model, workload.tokens, server.length) | extra)
        for messages in conversations(workload, source)
    ]


def send(entry: Entry, bodies: Sequence[bytes], workload: Workload, seed: int) -> Run:
    """Drive ``bodies`` on connections of their own."""
    load = Load(len(bodies), workload.concurrency, workload.rate, seed)
    return asyncio.run(_send(entry, bodies, load))


async def _send(entry: Entry, bodies: Sequence[bytes], load: Load) -> Run:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=entry.server.url,
        headers={"authorization": "Bearer none", "content-type": "application/json"},
        timeout=TIMEOUT_SECONDS,
        limits=limits,
        trust_env=False,
    ) as client:
        return await drive(client, bodies, load)


@dataclass(frozen=True, slots=True)
class Condition:
    """How a server started, and what it holds after a run."""

    start_seconds: float
    start_others: float
    memory_bytes: int


def record_of(
    run: Run,
    workload: Workload,
    place: Place,
    *,
    session: str,
    attempt: int,
    others: float,
    server: Condition,
    quiet: float = QUIET_CORES,
) -> Record:
    """What is written down of ``run``; it is kept if others used no more than ``quiet`` cores."""
    answers = run.answers
    return Record(
        session=session,
        round=place.round,
        workload=place.workload,
        entry=place.entry,
        attempt=attempt,
        kept=others <= quiet,
        others=others,
        load={
            name: value
            for name, value in asdict(workload).items()
            if name in ("requests", "concurrency", "tokens", "rate")
        },
        figures=figures(run, workload),
        summary=Summary.of(run).as_json(),
        prompt_tokens=[answer.prompt_tokens for answer in answers],
        output_tokens=[answer.tokens for answer in answers],
        ttft=[answer.ttft for answer in answers],
        e2e=[answer.total for answer in answers],
        start_seconds=server.start_seconds,
        start_others=server.start_others,
        memory_bytes=server.memory_bytes,
    )


def figures(run: Run, workload: Workload) -> dict[str, float | None]:
    """Medians over the requests, and rates; of a conversation, times of the later turns alone."""
    counted = [
        outcome
        for index, outcome in enumerate(run.outcomes)
        if isinstance(outcome, Answer) and workload.counted(index)
    ]
    ttft = Quantiles.of([answer.ttft for answer in counted])
    e2e = Quantiles.of([answer.total for answer in counted])
    tpot = Quantiles.of([answer.tpot for answer in counted if answer.tpot is not None])
    answers = run.answers
    return {
        "ttft": None if ttft is None else ttft.p50,
        "ttft_p90": None if ttft is None else ttft.p90,
        "e2e": None if e2e is None else e2e.p50,
        "tpot": None if tpot is None else tpot.p50,
        "requests_per_second": len(answers) / run.seconds if answers else None,
        "tokens_per_second": sum(a.tokens for a in answers) / run.seconds if answers else None,
    }
