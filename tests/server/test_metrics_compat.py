"""Another server's names for our numbers: the same at every moment, and absent unless asked for."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.commandline import load_settings
from server.settings import ConfigError
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, with_images

pytestmark = pytest.mark.anyio

# As vLLM's /metrics spells and types them.
GAUGES = {
    "vllm:num_requests_running": "dyvte_requests_running",
    "vllm:num_requests_waiting": "dyvte_requests_waiting",
    "vllm:kv_cache_usage_perc": "dyvte_kv_cache_usage_ratio",
}
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "dyvte_time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds": "dyvte_inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds": "dyvte_request_duration_seconds",
}


async def families(client: httpx.AsyncClient) -> dict[str, Metric]:
    page = (await client.get("/metrics")).text
    return {family.name: family for family in text_string_to_metric_families(page)}


async def test_no_alias_is_there_unless_asked_for(connect: Connect) -> None:
    async with connect() as client:
        assert not [name for name in await families(client) if name.startswith("vllm:")]


async def test_every_alias_has_its_type_and_the_models_name_alone(connect: Connect) -> None:
    async with connect(metrics_compat="vllm") as client:
        found = await families(client)
    assert {name for name in found if name.startswith("vllm:")} == GAUGES.keys() | HISTOGRAMS.keys()
    for names, kind in ((GAUGES, "gauge"), (HISTOGRAMS, "histogram")):
        for name in names:
            assert found[name].type == kind
            for sample in found[name].samples:
                assert sample.labels.keys() - {"le"} == {"model_name"}
                assert sample.labels["model_name"] == "demo"


async def test_an_aliased_histogram_is_the_sum_over_policies(connect: Connect) -> None:
    async with connect(metrics_compat="vllm") as client:
        for policy in ({"policy": "off"}, {"aggressiveness": 0.5}, {"aggressiveness": 0.1}):
            reply = await client.post(CHAT, json=with_images(RED, dyvte=policy))
            assert reply.status_code == 200
        found = await families(client)
    for alias, name in HISTOGRAMS.items():
        sums: dict[tuple[str, str | None], float] = {}
        for sample in found[name].samples:
            key = (sample.name.removeprefix(name), sample.labels.get("le"))
            sums[key] = sums.get(key, 0) + sample.value
        same = {
            (sample.name.removeprefix(alias), sample.labels.get("le")): sample.value
            for sample in found[alias].samples
        }
        assert same == sums
        assert same["_count", None] == (6 if "inter_token" in name else 3)
    for alias, name in GAUGES.items():
        assert found[alias].samples[0].value == found[name].samples[0].value


def test_it_is_a_flag_and_a_variable_that_knows_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(["--metrics-compat", "vllm"]).metrics_compat == "vllm"
    monkeypatch.setenv("DYVTE_METRICS_COMPAT", "vllm")
    assert load_settings([]).metrics_compat == "vllm"
    with pytest.raises(ConfigError, match="--metrics-compat tgi"):
        load_settings(["--metrics-compat", "tgi"])
