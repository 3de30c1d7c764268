"""The small routes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dyvte.exits.presets import Measured, PresetRecord
from dyvte.params import ExitOptions
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio


async def test_models_lists_the_base_name_first_then_its_aliases(connect: Connect) -> None:
    async with connect(served_model_name="eye") as client:
        reply = (await client.get("/v1/models")).json()
    check("ListModelsResponse", reply)
    names = [model["id"] for model in reply["data"]]
    assert names == ["eye", "eye:off", "eye:safe", "eye:balanced", "eye:aggressive"]


async def test_the_base_model_tells_what_exits_it_grants(connect: Connect) -> None:
    async with connect(max_aggressiveness=0.3) as client:
        told = (await client.get("/v1/models/demo")).json()["dyvte"]
    assert told["policies"] == ["gate", "fixed", "off"]
    assert told["prune_methods"] == ["fastv"]
    assert told["default"] == {"policy": "gate", "aggressiveness": 0.3}
    assert told["presets"]["off"] == {"policy": "off"}
    assert told["exits_hint"] == "calibrate the gates"


async def test_the_base_model_tells_its_type_and_the_form_of_its_weights(connect: Connect) -> None:
    info = replace(INFO, dtype="bfloat16", weights="bnb-nf4")
    async with connect(FakeEngine(info=info)) as client:
        base = (await client.get("/v1/models/demo")).json()["dyvte"]
        alias = (await client.get("/v1/models/demo:off")).json()["dyvte"]
    assert (base["dtype"], base["weights"]) == ("bfloat16", "bnb-nf4")
    assert not {"dtype", "weights"} & alias.keys()


async def test_the_log_says_in_what_form_the_model_is_ready(
    connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    info = replace(INFO, dtype="bfloat16", device="cuda", weights="bnb-nf4")
    async with connect(FakeEngine(info=info)):
        said = next(line for line in capsys.readouterr().out.splitlines() if "ready" in line)
    for word in ("model=demo", "device=cuda", "dtype=bfloat16", "weights=bnb-nf4"):
        assert word in said


async def test_what_was_measured_stands_beside_the_presets(connect: Connect) -> None:
    measured = Measured(700, 3, 0.011, 0.45, 0.4)
    stay = ExitOptions(aggressiveness=0.0)
    info = replace(
        INFO,
        calibrated=True,
        records={"balanced": PresetRecord(0.02, 0.95, measured, None)},
        conversation_presets={"balanced": stay},
        conversation_default=stay,
    )
    async with connect(FakeEngine(info=info)) as client:
        base = (await client.get("/v1/models/demo")).json()["dyvte"]
        alias = (await client.get("/v1/models/demo:balanced")).json()["dyvte"]
    told = {
        "max_risk": 0.02,
        "confidence": 0.95,
        "single": {
            "samples": 700,
            "changed": 3,
            "risk_upper_bound": 0.011,
            "prefill_saved": 0.45,
            "request_saved": 0.4,
        },
        "conversation": None,
    }
    assert base["measured"] == {"balanced": told}
    assert base["calibrated"] is True
    assert alias == {
        "base": "demo",
        "exits": {"policy": "gate", "aggressiveness": 0.5},
        "conversation": {"policy": "gate", "aggressiveness": 0.0},
        "record": told,
    }


async def test_a_model_without_gates_has_the_alias_off_only(connect: Connect) -> None:
    info = replace(INFO, presets={}, has_gates=False, default_exits=ExitOptions(policy="off"))
    async with connect(FakeEngine(info=info)) as client:
        reply = (await client.get("/v1/models")).json()
    assert [model["id"] for model in reply["data"]] == ["demo", "demo:off"]


async def test_one_model_is_shown_or_a_404(connect: Connect) -> None:
    async with connect(served_model_name="org/eye") as client:
        shown = await client.get("/v1/models/org/eye:off")
        lost = await client.get("/v1/models/ear")
    check("Model", shown.json())
    assert shown.json()["dyvte"] == {"base": "org/eye", "exits": {"policy": "off"}}
    assert lost.status_code == 404
    check("ErrorResponse", lost.json())


async def test_version_and_documentation_are_there(connect: Connect) -> None:
    async with connect() as client:
        assert "version" in (await client.get("/version")).json()
        assert (await client.get("/docs")).status_code == 200
        schema = (await client.get("/openapi.json")).json()
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ChatRequest"
    }
    assert "422" not in chat["responses"]
    assert {"ChatCompletion", "DyvteAccount", "ErrorBody"} <= schema["components"]["schemas"].keys()
