"""A real engine behind the app that checks all of its exits: `/metrics` knows, clients do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.__main__ import open_engine
from server.app import create_app
from server.settings import Settings
from tests.e2e.pictures import ask, png

pytestmark = pytest.mark.anyio
ANSWERS = 4


async def answer(client: httpx.AsyncClient, number: int, exits: dict[str, Any]) -> dict[str, Any]:
    body = {
        "model": "tiny",
        "messages": ask("what is it?", png(seed=number)),
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "dyvte": exits,
    }
    reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    said: dict[str, Any] = reply.json()
    return said


async def total(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    page = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_every_exit_is_checked_and_no_count_of_requests_holds_a_shadow(
    tiny_folder: Path,
) -> None:
    given = {"model": str(tiny_folder), "device": "cpu", "dtype": "float32", "shadow_share": 1.0}
    settings = Settings.model_validate(given | {"served_model_name": "tiny"})
    app = create_app(settings, lambda: open_engine(settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        fixed = {"policy": "fixed", "exit_layer": 1}
        short = [await answer(client, number, fixed) for number in range(ANSWERS)]
        async with asyncio.timeout(60):
            while await total(client, "dyvte_shadow_runs_total") < ANSWERS:
                await asyncio.sleep(0.02)
        executed = sum(said["dyvte"]["flops"]["executed"] for said in short)
        assert await total(client, "dyvte_flops_total") == executed
        assert await total(client, "dyvte_shadow_flops_total") > 0
        assert await total(client, "dyvte_request_success_total") == ANSWERS
        whole = [await answer(client, number, {"policy": "off"}) for number in range(ANSWERS)]
        changed = await total(client, "dyvte_shadow_runs_total", policy="fixed", outcome="changed")
        assert await total(client, "dyvte_shadow_runs_total") == ANSWERS, "off is not drawn"
    texts = ([said["choices"][0]["message"]["content"] for said in each] for each in (short, whole))
    assert changed == sum(one != other for one, other in zip(*texts, strict=True))
