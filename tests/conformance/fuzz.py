"""``make fuzz``: mutated picture files and request bodies against the app, in this process.

All of the server runs, and the demo model's own template, picture processing, limits and grammar
compiler; only the answer's tokens are scripted (``--engine demo`` computes them, too). Every
reply must be a 2xx or a 4xx in OpenAI's form, no request may raise, and memory, threads and files
may not grow. ``--seed`` and a case's number make that case again (``--first N --count 1``).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from dyvte.engine.events import Checked, Engine, EngineRequest, ModelInfo, TokenEvent
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Message, Prompt
from dyvte.structured import StructuredOutput
from dyvte.tools import Tool
from server.app import create_app
from server.logs import configure_logs
from server.settings import Settings
from tests.conformance.bodies import bodies
from tests.conformance.mutations import mutated_body, mutated_file, pictures
from tests.conformance.process import Held
from tests.server.examples import CHAT, data_url, with_images
from tests.server.fake_engine import FakeEngine

AT_ONCE = 8
GROWTH = 0.05  # of resident memory, between the run's second quarter and its last

Maker = Callable[[random.Random], tuple[str, bytes]]


class ScriptedDemo(FakeEngine):
    """The real engine up to the moment where tokens would be computed."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(answer=b"A red circle.")
        self.inner = inner
        self.info: ModelInfo = inner.info

    def prepare(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        return self.inner.prepare(messages, tools)

    def check(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Checked:
        return self.inner.check(prompt, sampling, exits)

    def resolve(self, exits: ExitOptions | None, conversation: bool = False) -> ExitOptions:
        return self.inner.resolve(exits, conversation)

    def compile(self, wanted: StructuredOutput) -> None:
        self.inner.compile(wanted)

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id % 256])

    def submit(self, request: EngineRequest) -> AsyncGenerator[Sequence[TokenEvent], None]:
        self.inner.check(request.prompt, request.sampling, request.exits)
        stream = super().submit(request)
        self.requests.clear()  # the fake keeps what it was asked; a long run would grow by it
        return stream


@dataclass(slots=True)
class Outcome:
    """What a run has seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    early: list[Held] = field(default_factory=list)
    late: list[Held] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Of resident memory, as a share; 0 where too little was seen."""
        if not self.early or not self.late:
            return 0.0
        return max(held.rss for held in self.late) / max(held.rss for held in self.early) - 1

    def leaks(self) -> list[str]:
        """Sentences about threads, files and memory that grew."""
        if not self.early or not self.late:
            return []
        told = []
        for name in ("threads", "files"):
            most = max(getattr(held, name) for held in self.early)
            now = min(getattr(held, name) for held in self.late)
            if now > most:
                told.append(f"{name}: {most} → {now}")
        if self.growth > GROWTH:
            told.append(f"memory grew by {self.growth:.1%}")
        return told


def picture_cases() -> Maker:
    """Requests with one or two pictures of which at least one was mutated."""
    files = pictures()

    def make(rng: random.Random) -> tuple[str, bytes]:
        kind = rng.choice(("png", "jpeg", "webp", "gif"))
        urls = [data_url(mutated_file(files, rng), kind)]
        if rng.random() < 0.1:
            urls.append(data_url(rng.choice(files)))
        request = with_images(*urls, max_tokens=2, temperature=0)
        if rng.random() < 0.2:
            request["messages"][0]["content"][0]["image_url"]["detail"] = "low"
        return CHAT, orjson.dumps(request)

    return make


def body_cases(paths: Sequence[str]) -> Maker:
    """Mutated bodies for the routes among ``paths``."""
    good = [(path, body) for path, body in bodies() if path in paths]

    def make(rng: random.Random) -> tuple[str, bytes]:
        path, _ = rng.choice(good)
        return path, mutated_body([body for route, body in good if route == path], rng)

    return make


async def attack(
    client: httpx.AsyncClient, make: Maker, cases: range, seed: int, kept: Path | None = None
) -> Outcome:
    """Send every case; ``kept`` is where the inputs of failures are written."""
    outcome, began, places = Outcome(), time.monotonic(), asyncio.Semaphore(AT_ONCE)
    quarter = max(1, len(cases) // 4)

    async def send(number: int) -> None:
        path, body = make(random.Random(f"{seed}/{number}"))
        try:
            said = await _fault(client, path, body, outcome)
        finally:
            places.release()
        if said:
            outcome.failures.append(f"case {number}: {said}")
            if kept:
                (kept / f"case-{number}").write_bytes(body)

    async with asyncio.TaskGroup() as group:
        for done, number in enumerate(cases):
            await places.acquire()
            group.create_task(send(number))
            if done % max(1, quarter // 25) == 0:
                if quarter <= done < 2 * quarter:
                    outcome.early.append(Held.by())
                elif done >= 3 * quarter:
                    outcome.late.append(Held.by())
            if done and done % 2500 == 0:
                rate = done / (time.monotonic() - began)
                _say(f"{done}: {rate:.0f}/s, {dict(outcome.statuses)}, {Held.by()}")
    return outcome


async def _fault(client: httpx.AsyncClient, path: str, body: bytes, outcome: Outcome) -> str | None:
    """Send one body; what is wrong with the reply, if anything."""
    try:
        reply = await client.post(path, content=body, headers={"Content-Type": "application/json"})
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    outcome.statuses[reply.status_code] += 1
    if not 200 <= reply.status_code < 300 and not 400 <= reply.status_code < 500:
        return f"{reply.status_code}: {reply.text[:300]}"
    if reply.status_code == 499:
        return None
    if reply.status_code >= 400 and set(reply.json().get("error", {})) != {
        "message",
        "type",
        "param",
        "code",
    }:
        return f"{reply.status_code} not in OpenAI's form: {reply.text[:300]}"
    if b'data: {"error"' in reply.content:
        return f"an error inside a stream: {reply.text[-300:]}"
    return None


async def run(arguments: argparse.Namespace) -> int:
    """Open, attack, tell."""
    from dyvte.engine.opening import open_engine

    configure_logs("error", "json")

    def opened() -> Engine:
        inner = open_engine("demo", device="cpu", dtype="float32")
        return inner if arguments.engine == "demo" else ScriptedDemo(inner)

    operator: dict[str, Any] = {"max_image_pixels": 4_000_000}
    app = create_app(Settings.model_validate(operator), opened)
    kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
    lost = 0
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://fuzz", timeout=120
        ) as client,
    ):
        await app.state.loading
        makers = {"images": picture_cases(), "bodies": body_cases(list(app.openapi()["paths"]))}
        for name in arguments.what:
            cases = range(arguments.first, arguments.first + arguments.count)
            outcome = await attack(client, makers[name], cases, arguments.seed, kept)
            lost += _told(name, cases, arguments.seed, outcome)
        _say(f"inputs of failures: {kept}" if lost else "no failure")
    return 1 if lost else 0


def _told(name: str, cases: range, seed: int, outcome: Outcome) -> int:
    _say(f"{name}: {len(cases)} cases from {cases.start}, seed {seed}: {dict(outcome.statuses)}")
    if outcome.early and outcome.late:
        _say(f"  {outcome.early[0]} → {outcome.late[-1]} ({outcome.growth:+.1%})")
    for line in (*outcome.failures[:20], *outcome.leaks()):
        _say(f"  {line}")
    return len(outcome.failures) + len(outcome.leaks())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make fuzz")
    parser.add_argument("--what", nargs="+", default=["images", "bodies"])
    parser.add_argument("--count", type=int, default=50_000, help="cases of each")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("scripted", "demo"), default="scripted")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
