"""What `/metrics` adds up is what the replies said: 500 requests of all kinds, to the last FLOP."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png

pytestmark = pytest.mark.anyio

REQUESTS = 500
AT_ONCE = 48
POLICIES: list[dict[str, Any]] = [
    {"policy": "off"},
    *({"aggressiveness": a} for a in (0.001, 0.2, 0.5, 0.8, 1.0)),
    *({"policy": "fixed", "exit_layer": layer} for layer in (0, 2, 3)),
    {"aggressiveness": 0.5, "min_layer": 1},
    {"policy": "off", "prune": {"method": "fastv", "layer": 1, "ratio": 0.6}},
    {"aggressiveness": 0.4, "prune": {"method": "pyramiddrop", "ratio": 0.4}},
    {"policy": "fixed", "exit_layer": 2, "prune": {"method": "divprune", "ratio": 0.5}},
]
PHASES = ("vision", "prefill", "decode", "head", "gates")
Sums = Counter[tuple[str, ...]]


def request(number: int) -> dict[str, Any]:
    """The kinds of one number: policies, images, choices and streaming turn at their own pace.

    Pictures come again after forty requests, and are then known to the caches.
    """
    images = [png(seed=number % 40 + each) for each in range(number % 4)]
    return {
        "model": "tiny",
        "messages": ask(f"what is number {number}?", *images),
        "max_tokens": 1 + number % 3,
        "temperature": number % 2,
        "seed": number,
        "ignore_eos": number % 3 > 0,
        "n": 1 + (number % 7 == 0) + (number % 11 == 0),
        "stream": number % 5 == 0,
        "dyvte": POLICIES[number % len(POLICIES)],
    }


@pytest.fixture
async def client(tiny_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(model=str(tiny_folder), served_model_name="tiny") as made:
        yield made


async def account(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    """The `dyvte` object of a reply, whole or streamed."""
    reply = await client.post("/v1/chat/completions", json=request(number))
    assert reply.status_code == 200, reply.text
    bodies = [reply.text]
    if request(number)["stream"]:
        lines = reply.text.splitlines()
        bodies = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    (said,) = [body["dyvte"] for body in map(json.loads, bodies) if "dyvte" in body]
    return dict(said)


async def page(client: httpx.AsyncClient) -> Sums:
    """Counters of FLOPs: (name, phase or cache, policy) → value, without the model's name."""
    text = (await client.get("/metrics")).text
    found: Sums = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "flops" in sample.name and "le" not in sample.labels:
                labels = (sample.labels.get(name) for name in ("phase", "cache", "policy"))
                key = (sample.name.removeprefix("dyvte_"), *(each for each in labels if each))
                found[key] += sample.value  # type: ignore[assignment]
    return found


def told(accounts: list[dict[str, Any]]) -> Sums:
    """The same keys, from the replies."""
    sums: Sums = Counter()
    for each in accounts:
        flops, policy = each["flops"], each["policy"]
        assert flops["saved"] == flops["baseline"] - flops["total"]
        assert flops["executed"] == flops["total"] - flops["avoided_by_cache"]
        image = min(flops["vision"], flops["avoided_by_cache"])
        prefix = flops["avoided_by_cache"] - image
        assert image in (0, flops["vision"])
        assert 0 <= prefix < flops["prefill"]
        for phase in PHASES:
            spared = {"vision": image, "prefill": prefix}.get(phase, 0)
            sums["flops_total", phase, policy] += flops[phase] - spared
        sums["flops_avoided_total", "image"] += image
        sums["flops_avoided_total", "prefix"] += prefix
        sums["flops_baseline_total", policy] += flops["baseline"]
        sums["flops_saved_total", policy] += max(0, flops["saved"])
        sums["flops_overspent_total", policy] += max(0, -flops["saved"])
        sums["request_flops_sum", policy] += flops["total"]
        sums["request_flops_count", policy] += 1
        sums["request_flops_saved_ratio_count", policy] += 1
    return sums


@pytest.mark.timeout(300)
async def test_the_counters_grow_by_exactly_what_the_replies_say(
    client: httpx.AsyncClient,
) -> None:
    before = await page(client)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> dict[str, Any]:
        async with room:
            return await account(client, number)

    accounts = await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    after = await page(client)
    grown = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert grown == {key: value for key, value in told(accounts).items() if value}

    net = sum(each["flops"]["saved"] for each in accounts)
    saved, overspent = (
        sum(value for key, value in grown.items() if key[0] == f"flops_{name}_total")
        for name in ("saved", "overspent")
    )
    assert saved - overspent == net
    assert min(saved, overspent) > 0, "requests of both kinds were meant"
    for cache in ("image", "prefix"):
        assert grown["flops_avoided_total", cache] > 0, "pictures were meant to come again"
    executed = sum(each["flops"]["executed"] for each in accounts)
    assert sum(grown[key] for key in grown if key[0] == "flops_total") == executed
