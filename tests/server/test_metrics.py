"""Every name of the contract, with its labels, from the start, and counted once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dyvte.engine.stats import ShadowOutcome, ShadowStats
from dyvte.exits.presets import RISKS, PresetRecord
from dyvte.params import ExitOptions
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, body, data_url, with_images
from tests.server.fake_engine import IMAGE_ROWS, INFO, NUM_LAYERS, FakeEngine

pytestmark = pytest.mark.anyio

MODEL = {"model_name"}
POLICY = {"model_name", "policy"}
CONTRACT = {
    "dyvte_requests": MODEL | {"endpoint", "status_code"},
    "dyvte_request_success": MODEL | {"finish_reason"},
    "dyvte_admission_rejections": MODEL | {"reason"},
    "dyvte_requests_running": MODEL,
    "dyvte_requests_waiting": MODEL,
    "dyvte_kv_cache_usage_ratio": MODEL,
    "dyvte_time_to_first_token_seconds": POLICY,
    "dyvte_inter_token_latency_seconds": POLICY,
    "dyvte_request_duration_seconds": POLICY,
    "dyvte_request_queue_seconds": MODEL,
    "dyvte_request_prefill_seconds": POLICY,
    "dyvte_request_decode_seconds": POLICY,
    "dyvte_prompt_tokens": MODEL,
    "dyvte_generation_tokens": MODEL,
    "dyvte_visual_tokens": MODEL,
    "dyvte_flops": POLICY | {"phase"},
    "dyvte_flops_baseline": POLICY,
    "dyvte_flops_saved": POLICY,
    "dyvte_flops_overspent": POLICY,
    "dyvte_flops_avoided": MODEL | {"cache"},
    "dyvte_unfinished_requests": MODEL | {"ending"},
    "dyvte_unfinished_flops": POLICY | {"ending"},
    "dyvte_unfinished_flops_saved": POLICY | {"ending"},
    "dyvte_shadow_flops": MODEL,
    "dyvte_shadow_runs": POLICY | {"outcome"},
    "dyvte_shadow_share_ratio": MODEL,
    "dyvte_promised_risk_ratio": POLICY,
    "dyvte_request_flops": POLICY,
    "dyvte_request_flops_saved_ratio": POLICY,
    "dyvte_request_exit_layer": POLICY,
    "dyvte_request_aggressiveness": MODEL,
    "dyvte_exit_outcomes": MODEL | {"outcome"},
    "dyvte_visual_token_layers": MODEL | {"state"},
    "dyvte_kv_bytes_saved": MODEL,
    "dyvte_gate_seconds": MODEL,
    "dyvte_gate_readings": MODEL,
    "dyvte_gate_nan": MODEL,
    "dyvte_step_seconds": MODEL,
    "dyvte_step_rows": MODEL | {"phase"},
    "dyvte_ready": MODEL,
    "dyvte_media_seconds": MODEL | {"stage"},
    "dyvte_vision_encoder_seconds": MODEL,
    "dyvte_media_errors": MODEL | {"reason"},
    "dyvte_cache_queries": MODEL | {"cache"},
    "dyvte_cache_hits": MODEL | {"cache"},
    "dyvte_build_info": MODEL | {"version", "model_family", "dtype", "device", "attention"},
}


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[str]], float]:
    """(name, label values but for the model's) → value."""
    page = (await client.get("/metrics")).text
    return {
        (sample.name, frozenset(v for k, v in sample.labels.items() if k != "model_name")): (
            sample.value
        )
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def until(ask: Callable[[], Awaitable[httpx.Response]]) -> None:
    """Ask until the answer is a 200."""
    async with asyncio.timeout(10):
        while (await ask()).status_code != 200:
            await asyncio.sleep(0.01)


async def test_every_name_and_label_of_the_contract_is_there_from_the_start(
    connect: Connect,
) -> None:
    async with connect() as client:
        page = (await client.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families.keys() == CONTRACT.keys()
    for name, labels in CONTRACT.items():
        assert families[name].samples, name
        for sample in families[name].samples:
            assert sample.labels.keys() - {"le"} == labels, name
            assert sample.labels["model_name"] == "demo"


async def test_every_help_text_is_a_sentence_that_says_more_than_the_name(
    connect: Connect,
) -> None:
    async with connect() as client:
        page = (await client.get("/metrics")).text
    for family in text_string_to_metric_families(page):
        text = family.documentation
        assert text.endswith("."), family.name
        assert len(text.split()) >= 4, family.name


async def test_the_page_says_whether_the_server_takes_requests(connect: Connect) -> None:
    fake = FakeEngine(load_s=0.05)
    async with connect(fake, wait=False) as client:
        states = [(await samples(client))["dyvte_ready", frozenset()]]
        await until(lambda: client.get("/ready"))
        states.append((await samples(client))["dyvte_ready", frozenset()])
        fake.alive = False
        states.append((await samples(client))["dyvte_ready", frozenset()])
    assert states == [0, 1, 0]


async def test_a_request_is_accounted_for_once(connect: Connect) -> None:
    async with connect() as client:
        before = await samples(client)
        flops = (await client.post(CHAT, json=with_images(RED))).json()["dyvte"]["flops"]
        after = await samples(client)

    def grown(name: str, *labels: str) -> float:
        key = (name, frozenset(labels))
        return after[key] - before[key]

    assert grown("dyvte_requests_total", CHAT, "200") == 1
    assert grown("dyvte_request_success_total", "stop") == 1
    assert grown("dyvte_visual_tokens_total") == IMAGE_ROWS
    assert grown("dyvte_exit_outcomes_total", "exited") == 1
    assert grown("dyvte_visual_token_layers_total", "executed") == 3 * IMAGE_ROWS
    assert grown("dyvte_visual_token_layers_total", "skipped") == (NUM_LAYERS - 3) * IMAGE_ROWS
    assert grown("dyvte_flops_saved_total", "gate") == flops["saved"]
    phases = ("vision", "prefill", "decode", "head", "gates")
    executed = sum(grown("dyvte_flops_total", phase, "gate") for phase in phases)
    assert executed == flops["executed"]
    assert grown("dyvte_request_exit_layer_bucket", "gate", "2.0") == 1
    assert grown("dyvte_request_exit_layer_bucket", "gate", "1.0") == 0
    for name in ("time_to_first_token", "request_duration", "request_prefill"):
        assert grown(f"dyvte_{name}_seconds_count", "gate") == 1
    assert grown("dyvte_inter_token_latency_seconds_count", "gate") == 2
    for stage in ("decode", "preprocess"):
        assert grown("dyvte_media_seconds_count", stage) == 1
    assert grown("dyvte_gate_readings_total") == 2
    assert grown("dyvte_gate_nan_total") == 1
    assert grown("dyvte_step_seconds_count") == 1


async def test_shadows_are_counted_apart_from_requests(connect: Connect) -> None:
    fake = FakeEngine()
    async with connect(fake, shadow_share=0.25) as client:
        before = await samples(client)
        (observer,) = fake.observers
        observer.on_shadow(ShadowStats("gate", ShadowOutcome.CHANGED, 1000))
        observer.on_shadow(ShadowStats("gate", ShadowOutcome.SKIPPED))
        after = await samples(client)
    grown = {key: after[key] - before[key] for key in after if after[key] > before[key]}
    del grown["dyvte_requests_total", frozenset({"/metrics", "200"})]  # this look itself
    assert grown == {
        ("dyvte_shadow_runs_total", frozenset({"gate", "changed"})): 1,
        ("dyvte_shadow_runs_total", frozenset({"gate", "skipped"})): 1,
        ("dyvte_shadow_flops_total", frozenset()): 1000,
    }
    assert after["dyvte_shadow_share_ratio", frozenset()] == 0.25


@pytest.mark.parametrize(("default", "promised"), [(None, math.nan), ({"max_risk": 0.02}, 0.02)])
async def test_the_promise_of_the_default_exits_is_told(
    connect: Connect,
    default: dict[str, float] | None,
    promised: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeEngine()
    monkeypatch.setattr(fake, "resolve", lambda *_: ExitOptions(aggressiveness=0.3))
    async with connect(fake, default_exits=default) as client:
        seen = await samples(client)
    told = seen["dyvte_promised_risk_ratio", frozenset({"gate"})]
    assert told == pytest.approx(promised, nan_ok=True)


async def test_the_promise_of_a_calibrated_preset_is_told(connect: Connect) -> None:
    records = {name: PresetRecord(risk, 0.95, None, None) for name, risk in RISKS.items()}
    info = replace(INFO, calibrated=True, records=records)
    for default, policy, promised in (
        (None, "gate", 0.02),
        ("safe", "gate", 0.005),
        ("off", "off", math.nan),
    ):
        async with connect(FakeEngine(info=info), default_exits=default) as client:
            seen = await samples(client)
        told = seen["dyvte_promised_risk_ratio", frozenset({policy})]
        assert told == pytest.approx(promised, nan_ok=True)


async def test_gauges_ask_the_engine(connect: Connect) -> None:
    async with connect() as client:
        seen = await samples(client)
    assert seen["dyvte_kv_cache_usage_ratio", frozenset()] == 0.25
    assert seen["dyvte_kv_bytes_saved", frozenset()] == 7


async def test_refusals_and_bad_images_are_counted_by_reason(connect: Connect) -> None:
    async with connect() as client:
        await client.post(CHAT, json=body("x" * 600))
        await client.post(CHAT, json=with_images(data_url(b"nonsense")))
        seen = await samples(client)
    assert seen["dyvte_admission_rejections_total", frozenset({"invalid_prompt"})] == 1
    assert seen["dyvte_media_errors_total", frozenset({"unreadable"})] == 1
    assert seen["dyvte_requests_total", frozenset({CHAT, "400"})] == 2


async def test_no_client_can_grow_the_page(connect: Connect) -> None:
    async with connect() as client:
        before = await samples(client)
        for path in ("/a", "/b", "/v1/models/c", "/v1/models/d"):
            await client.get(path)
        await client.post(CHAT, json={**body(), "model": "nobody"})
        after = await samples(client)
    assert after.keys() == before.keys()


async def test_two_apps_do_not_share_counters(connect: Connect) -> None:
    async with connect() as one, connect(FakeEngine(), served_model_name="other") as two:
        await one.post(CHAT, json=body())
        seen = await samples(two)
    assert seen["dyvte_requests_total", frozenset({CHAT, "200"})] == 0


async def test_before_the_model_is_loaded_the_page_has_the_servers_side(connect: Connect) -> None:
    async with connect(FakeEngine(load_s=5), wait=False) as client:
        page = (await client.get("/metrics")).text
    assert "dyvte_requests_total" in page
    assert "dyvte_flops_total" not in page
