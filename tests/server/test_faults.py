"""A fault at any seam of the house: one request fails, honestly and alone, and nothing is left.

The engine is the real one, on a tiny model. Four requests run together; the victim is known to
each seam by what only it carries. The others are streamed, whole, greedy and sampled, and must
get what they get alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

import dyvte
from dyvte import sampling
from dyvte.engine import choosing, core, handle, runner
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.handle import AsyncEngine
from dyvte.engine.info import describe
from dyvte.engine.sequence import Sequence
from server import detokenize, preprocess
from server.app import create_app
from server.settings import Settings
from tests import tiny
from tests.fakes import Fault, TamperedAdapter, tamper
from tests.server.examples import CHAT, data_url, encoded, events, text_of, with_images
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio

TOKENS, VICTIM_SEED, VICTIM_STOP, VICTIM_TEXT = 5, 13, "~victim~", "victim?"
VICTIM_PICTURE = encoded(Image.new("RGB", (12, 12), "purple"))
LENGTH = {"max_tokens": TOKENS, "ignore_eos": True, "dyvte": {"aggressiveness": 0.5}}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Each failure is logged with its traceback; that is not what is tested."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mate(index: int) -> dict[str, Any]:
    """Requests that must not notice: greedy, sampled, two choices."""
    colour = ("red", "green", "blue")[index]
    picture = data_url(encoded(Image.new("RGB", (12, 12), colour)))
    draw: dict[str, Any] = {"temperature": 0} if index == 0 else {"seed": index, "n": index}
    return with_images(picture, stream=index == 1, **LENGTH, **draw)


def victim(stream: bool = False) -> dict[str, Any]:
    asked = with_images(
        data_url(VICTIM_PICTURE), seed=VICTIM_SEED, stop=VICTIM_STOP, stream=stream, **LENGTH
    )
    asked["messages"][0]["content"][-1]["text"] = VICTIM_TEXT
    return asked


@dataclass
class House:
    """The app over the real engine, and the places where a fault can be planted."""

    client: httpx.AsyncClient
    engine: AsyncEngine
    adapter: TamperedAdapter
    app: Any

    async def ask(self, raw: dict[str, Any]) -> httpx.Response:
        return await self.client.post(CHAT, json=raw, timeout=60)

    def victims(self, seqs: set[int]) -> bool:
        """Whether one of these sequences is the victim's."""
        known = self.engine.core._sequences
        return any(known[s].owner.sampling.seed == VICTIM_SEED for s in seqs if s in known)

    def check_empty(self) -> None:
        ledger, scheduler = self.engine.core.scheduler.ledger, self.engine.core.scheduler
        assert self.engine.alive
        assert ledger.num_free == ledger.num_pages
        assert [*scheduler.waiting, *scheduler.running, *scheduler.group] == []
        assert not self.engine._outboxes
        assert not self.engine.core._sequences
        assert self.app.state.lifecycle.inside == 0


@asynccontextmanager
async def house(model: dyvte.Model, rows: int = 1024) -> AsyncIterator[House]:
    tampered, adapter = tamper(model)
    made = build_core(tampered, EngineConfig(max_step_rows=rows))
    engine = AsyncEngine(made, describe(tampered, made))
    app = create_app(Settings(drain_timeout=1), lambda: engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        yield House(client, engine, adapter, app)


def fail(*_: object, **__: object) -> Any:
    raise Fault("0x7f: the private question was …")


def wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, is_victim: Callable[..., bool]) -> None:
    """``owner.name`` raises where ``is_victim`` says so of its arguments."""
    real = getattr(owner, name)

    def call(*args: Any, **settings: Any) -> Any:
        return (fail if is_victim(*args, **settings) else real)(*args, **settings)

    patch.setattr(owner, name, call)


def at_layer(layer: int) -> Callable[[House, pytest.MonkeyPatch], None]:
    def plant(house: House, _: pytest.MonkeyPatch) -> None:
        def hook(at: int, hidden: torch.Tensor, context: Any) -> None:
            if at == layer and house.victims({part.seq for part in context.batch.segments}):
                fail()

        house.adapter.on_layer = hook

    return plant


def seeded(sequence: Any) -> bool:
    return bool(sequence.owner.sampling.seed == VICTIM_SEED)


def shown_by_victim(house: House, images: list[Any]) -> bool:
    """Whether one of these pictures is the victim's."""
    victims = [each.owner for each in house.engine.core._sequences.values() if seeded(each)]
    return any(state.images is each for state in victims for each in images)


SEAMS: dict[str, Callable[[House, pytest.MonkeyPatch], None]] = {
    "media": lambda house, patch: wrap(
        patch, preprocess, "decode_image", lambda data, *_: data == VICTIM_PICTURE
    ),
    "preprocess": lambda house, patch: wrap(
        patch, house.engine, "prepare", lambda messages, *_: VICTIM_TEXT in str(messages)
    ),
    "check": lambda house, patch: wrap(
        patch, house.engine, "check", lambda prompt, sampling, _: sampling.seed == VICTIM_SEED
    ),
    "submit": lambda house, patch: wrap(
        patch, handle, "Outbox", lambda state, _: state.sampling.seed == VICTIM_SEED
    ),
    "admit": lambda house, patch: wrap(
        patch, house.engine.core, "add", lambda state: state.sampling.seed == VICTIM_SEED
    ),
    "vision": lambda house, patch: wrap(
        patch, house.adapter, "encode_images", lambda images: shown_by_victim(house, images)
    ),
    "split": lambda house, patch: wrap(
        patch, house.adapter, "split_images", lambda images: shown_by_victim(house, [images])
    ),
    "join": lambda house, patch: wrap(
        patch, house.adapter, "join_images", lambda images, _: shown_by_victim(house, [images])
    ),
    "pack": lambda house, patch: wrap(
        patch, runner.Runner, "_prompt", lambda _, sequence: seeded(sequence)
    ),
    **{f"layer {layer}": at_layer(layer) for layer in range(tiny.LAYERS)},
    "settle": lambda house, patch: wrap(
        patch, house.engine.core, "_settle", lambda out: seeded(out.sequence)
    ),
    "scores": lambda house, patch: wrap(
        patch, Sequence, "scores", lambda sequence, *_: seeded(sequence)
    ),
    "sample": lambda house, patch: wrap(
        patch, choosing, "pick", lambda _, params, *__: any(p.seed == VICTIM_SEED for p in params)
    ),
    "emit": lambda house, patch: wrap(
        patch, core, "accept", lambda model, sequence, *_: seeded(sequence)
    ),
    "account": lambda house, patch: wrap(
        patch, core, "request_stats", lambda *args: args[2].sampling.seed == VICTIM_SEED
    ),
    "detokenise": lambda house, patch: wrap(
        patch, detokenize.Detokenizer, "push", lambda self, *_: self._stop == (VICTIM_STOP,)
    ),
}


def told(reply: httpx.Response) -> list[str]:
    """The texts of an answer's choices."""
    assert reply.status_code == 200, reply.text
    if reply.headers["content-type"].startswith("text/event-stream"):
        return [text_of(events(reply))]
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


def assert_honest(reply: httpx.Response) -> None:
    """A 500 or an error event in OpenAI's form, with the request's id and no internals."""
    error = reply.json() if reply.status_code == 500 else None
    if error is None:
        assert reply.status_code == 200
        error = json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))
    check("ErrorResponse", error)
    assert error["error"]["code"] == "internal_error"
    assert reply.headers["x-request-id"] in error["error"]["message"]
    assert "0x7f" not in reply.text
    assert "private" not in reply.text


@pytest.mark.parametrize("seam", SEAMS)
async def test_a_fault_at_a_seam_fails_one_request_alone(
    seam: str, tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tiny_model, rows=24) as whole:
        alone = [told(await whole.ask(mate(index))) for index in range(3)]
        with monkeypatch.context() as patch:
            SEAMS[seam](whole, patch)
            bad, streamed, *replies = await asyncio.gather(
                whole.ask(victim()),
                whole.ask(victim(True)),
                *(whole.ask(mate(i)) for i in range(3)),
            )
            assert_honest(bad)
            assert_honest(streamed)
            assert [told(reply) for reply in replies] == alone
        whole.adapter.on_layer = lambda *_: None
        await asyncio.sleep(0.05)
        whole.check_empty()
        again = await whole.ask(victim())
        assert len(told(again)) == 1, "what was planted is gone, and nothing is broken"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
@pytest.mark.parametrize("where", ["vision", "layer", "sample"])
async def test_a_step_that_does_not_fit_the_memory_is_run_in_parts(
    where: str, error: Exception, tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever holds more than one sequence fails; nobody's answer changes."""
    times = 0

    def short(of: int) -> None:
        nonlocal times
        if of > 1:
            times += 1
            raise error

    async with house(tiny_model) as whole:
        alone = [told(await whole.ask(mate(index))) for index in range(3)]
        with monkeypatch.context() as patch:
            if where == "vision":
                whole.adapter.on_images = lambda images: short(len(images))
            elif where == "layer":
                whole.adapter.on_layer = lambda at, _, context: short(len(context.batch.segments))
            else:
                real = sampling.pick

                def pick(scores: torch.Tensor, *rest: Any) -> torch.Tensor:
                    short(len(scores))
                    return real(scores, *rest)

                patch.setattr(choosing, "pick", pick)
            replies = await asyncio.gather(*(whole.ask(mate(index)) for index in range(3)))
        assert [told(reply) for reply in replies] == alone
        assert times > 0
        await asyncio.sleep(0.05)
        whole.check_empty()


async def test_a_request_that_never_fits_the_memory_fails_alone(tiny_model: dyvte.Model) -> None:
    async with house(tiny_model) as whole:
        alone = told(await whole.ask(mate(0)))

        def short(at: int, hidden: torch.Tensor, context: Any) -> None:
            if whole.victims({part.seq for part in context.batch.segments}):
                raise torch.OutOfMemoryError("CUDA out of memory")

        whole.adapter.on_layer = short
        bad, good = await asyncio.gather(whole.ask(victim()), whole.ask(mate(0)))
        assert_honest(bad)
        assert told(good) == alone
        await asyncio.sleep(0.05)
        whole.check_empty()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_time_is_up_gives_its_pages_back(
    stream: bool, tiny_model: dyvte.Model
) -> None:
    async with house(tiny_model) as whole:
        alone = told(await whole.ask(mate(0)))
        whole.adapter.on_layer = lambda *_: time.sleep(0.01)
        late, good = await asyncio.gather(
            whole.client.post(
                CHAT,
                json=victim(stream) | {"max_tokens": 200},
                headers={"x-request-timeout": "0.5"},
                timeout=60,
            ),
            whole.ask(mate(0)),
        )
        assert '"code":"request_timeout"' in late.text
        assert late.status_code == (200 if stream else 408)
        assert told(good) == alone
        async with asyncio.timeout(20):
            while whole.engine._outboxes or whole.engine.core.has_work:
                await asyncio.sleep(0.01)
        whole.check_empty()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dead_engine_is_told_by_health_and_to_everybody_inside(
    stream: bool, tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tiny_model) as whole:
        assert (await whole.client.get("/health")).status_code == 200
        endless = victim(stream) | {"max_tokens": 200}
        inside = asyncio.create_task(whole.ask(endless))
        while not whole.engine.core.scheduler.running:
            await asyncio.sleep(0.005)
        monkeypatch.setattr(whole.engine.core, "step", fail)
        reply = await inside
        codes = [(await whole.client.get(path)).status_code for path in ("/health", "/ready")]
        late = await whole.ask(mate(0))
    assert codes == [503, 503]
    assert late.json()["error"]["code"] == "engine_stopped"
    if stream:
        assert '"code":"engine_stopped"' in reply.text.strip().split("\n\n")[-1]
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_stopped")
