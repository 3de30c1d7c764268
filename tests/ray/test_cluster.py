"""Two replicas of the demo under Ray Serve: load, streams, affinity, a killed replica, the end.

Start to end about three minutes on two cores.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import httpx
import orjson
import pytest

from dyvte.bench.load import Load, Run, drive
from dyvte.bench.stream import Answer, Failure
from dyvte.bench.workload import Workload, noise
from tests.ray.cluster import STOPPED_WITHIN_S, Cluster, Replica, cluster, until
from tests.server.examples import data_url, with_images

pytestmark = [pytest.mark.ray, pytest.mark.anyio, pytest.mark.timeout(600)]

log = logging.getLogger("fleet")

HEADER = "X-DyVTE-Replica"
ENDED_WITHIN_S = 90.0
BACK_WITHIN_S = 120.0
IMAGES, QUESTIONS = 12, 8
APART_S = 0.002  # a step takes longer than that; what comes closer came together
W2 = Workload("demo", max_tokens=16, ignore_eos=True)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas."""
    with cluster(tmp_path_factory.mktemp("ray") / "log", "--replicas", "2") as running:
        until(lambda: len(running.replicas()) == 2, 60, "a replica is missing")
        yield running


def client(fleet: Cluster) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(
        base_url=f"{fleet.base}/v1", timeout=120, limits=limits, trust_env=False
    )


async def run(fleet: Cluster, bodies: Sequence[bytes], concurrency: int) -> Run:
    async with client(fleet) as connected:
        return await drive(connected, bodies, Load(len(bodies), concurrency))


def answered(replica: Replica) -> float:
    return replica.metric("dyvte_request_success_total")


async def test_w2_is_answered_by_both_replicas_and_their_metrics_add_up(fleet: Cluster) -> None:
    before = {replica.name: answered(replica) for replica in fleet.replicas()}
    load = await run(fleet, [W2.body(index) for index in range(32)], 8)
    assert load.failures == []
    assert {answer.tokens for answer in load.answers} == {16}
    counted = {r.name: answered(r) - before[r.name] for r in fleet.replicas()}
    assert sum(counted.values()) == 32
    assert min(counted.values()) >= 4


async def test_a_stream_arrives_token_by_token(fleet: Cluster) -> None:
    body = Workload("demo", max_tokens=32, ignore_eos=True).body(0)
    (answer,) = (await run(fleet, [body], 1)).answers
    apart = [b - a for a, b in pairwise(answer.arrivals) if b - a > APART_S]
    log.info("first chunk after %.3f s, last after %.3f s", answer.ttft, answer.arrivals[-1])
    assert len(apart) >= 10


async def test_requests_with_the_same_image_reach_the_same_replica(fleet: Cluster) -> None:
    draw = random.Random(0)
    pictures = [data_url(noise(draw, 56)) for _ in range(IMAGES)]
    asked = [picture for picture in pictures for _ in range(QUESTIONS)]
    draw.shuffle(asked)
    door = asyncio.Semaphore(8)
    reached: dict[str, Counter[str]] = defaultdict(Counter)
    hits = 0
    async with client(fleet) as connected:

        async def ask(picture: str) -> None:
            nonlocal hits
            async with door:
                body = with_images(picture, max_tokens=4)
                reply = await connected.post("chat/completions", json=body)
            assert reply.status_code == 200
            reached[picture][reply.headers[HEADER]] += 1
            hits += reply.json()["dyvte"]["flops"]["avoided_by_cache"] > 0

        await asyncio.gather(*map(ask, asked))
    together = sum(counts.most_common(1)[0][1] for counts in reached.values())
    log.info("%d of %d requests reached their image's replica", together, len(asked))
    assert together / len(asked) >= 0.9
    seen = len(asked) - len(pictures)
    log.info("%d of %d requests found an image that was shown before", hits, seen)
    assert hits / seen >= 0.9
    homes = {counts.most_common(1)[0][0] for counts in reached.values()}
    assert len(homes) == 2, "all images live on one replica"


async def test_request_ids_pass_through_once(fleet: Cluster) -> None:
    async with client(fleet) as connected:
        reply = await connected.get("models", headers={"X-Request-Id": "mine-1"})
    assert reply.headers.get_list("x-request-id") == ["mine-1"]


async def test_a_client_that_leaves_takes_its_request_along(fleet: Cluster) -> None:
    body = Workload("demo", max_tokens=150, ignore_eos=True).body(0)
    async with (
        client(fleet) as connected,
        connected.stream("POST", "chat/completions", content=body) as response,
    ):
        await anext(response.aiter_lines())
        assert _running(fleet) == 1
    until(lambda: _running(fleet) == 0, 5, "the request still runs")


def _running(fleet: Cluster) -> float:
    return sum(replica.metric("dyvte_requests_running{") for replica in fleet.replicas())


async def test_a_killed_replica_leaves_no_stream_hanging_and_comes_back(fleet: Cluster) -> None:
    long = Workload("demo", max_tokens=150, ignore_eos=True)
    load = asyncio.create_task(run(fleet, [long.body(index) for index in range(16)], 16))
    victim = await _busy(fleet)
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    ends = await asyncio.wait_for(load, ENDED_WITHIN_S)
    assert all(isinstance(end, Answer | Failure) for end in ends.outcomes)
    assert {failure.reason for failure in ends.failures} <= {"The replica has gone."}
    assert ends.failures
    assert ends.answers
    fresh = await run(fleet, [W2.body(100 + index) for index in range(8)], 4)
    assert fresh.failures == []
    until(lambda: _is_back(fleet, victim), BACK_WITHIN_S, "the replica did not come back")
    cut = max(failure.total for failure in ends.failures)
    seconds = (ends.seconds, cut, time.monotonic() - killed)
    log.info("streams took %.1f s, cut after %.1f s, back after %.1f s", *seconds)


async def _busy(fleet: Cluster) -> Replica:
    """A replica that answers several streams just now, some way into them."""
    for _ in range(200):
        await asyncio.sleep(0.1)
        for replica in await asyncio.to_thread(fleet.replicas):
            running = await asyncio.to_thread(replica.metric, "dyvte_requests_running{")
            if running >= 4:
                await asyncio.sleep(1.0)
                return replica
    raise AssertionError("no replica got busy")


def _is_back(fleet: Cluster, victim: Replica) -> bool:
    names = {replica.name for replica in fleet.replicas()}
    return len(names) == 2 and victim.name not in names


async def test_the_end_lets_a_running_stream_finish(fleet: Cluster) -> None:
    body = Workload("demo", max_tokens=150, ignore_eos=True).body(7)
    async with (
        client(fleet) as connected,
        connected.stream("POST", "chat/completions", content=body) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        fleet.process.terminate()
        rest = [line async for line in lines if line.startswith("data:")]
    assert rest[-1] == "data: [DONE]"
    *_, last = (orjson.loads(line[5:]) for line in rest[:-1])
    assert last["usage"]["completion_tokens"] == 150
    assert await asyncio.to_thread(fleet.process.wait, STOPPED_WITHIN_S) == 0
