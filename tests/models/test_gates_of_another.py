"""Gates made for one model, loaded on another of the same width."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dyvte
from dyvte import ExitOptions, ModelError, OptionError
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.info import describe
from dyvte.exits.binomial import upper_bound
from dyvte.exits.calibration import Calibration, Curve, Point
from dyvte.exits.files import GateCard, write_gates
from dyvte.exits.presets import presets_for
from dyvte.exits.resolve import settle
from dyvte.models.parts import origin_of, parameters_by_part
from tests import tiny
from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png

CURVE = Curve(1000, (Point(0.3, 0, upper_bound(0, 1000, 0.95)), Point(0.6, 5, 0.02)))
MEASURED = Calibration(0.95, {"gate": {"single": CURVE}}, "gate").as_json()


def load(folder: Path, **how: object) -> dyvte.Model:
    return dyvte.load(folder, device="cpu", **{"dtype": "float32", **how})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def other(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model after some more training, without gates."""
    folder = tmp_path_factory.mktemp("other") / "other"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("gates"))
    draw = torch.Generator().manual_seed(5)
    moved = {
        name: tensor + 1e-3 * torch.randn(tensor.shape, generator=draw)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def gates(tiny_model: dyvte.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated gates whose card says that they are the tiny model's."""
    card = GateCard(
        tiny.HIDDEN,
        tiny.LAYERS,
        tuple(range(tiny.LAYERS)),
        model=origin_of(tiny_model.adapter, "tiny"),
        calibration=MEASURED,
        presets=presets_for("gate"),
    )
    folder = tmp_path_factory.mktemp("gates")
    write_gates(folder, tiny.gates(), card)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_their_own_model_takes_them_in_any_type(tiny_folder: Path, gates: Path, dtype: str) -> None:
    model = load(tiny_folder, gates=gates, dtype=dtype)
    assert model.grants.calibrated
    assert model.grants.default.aggressiveness == 0.6


def test_another_model_refuses_them_and_names_both(other: Path, gates: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(other, gates=gates)
    message = str(caught.value)
    assert message.startswith("gates: ")
    assert "llava 'tiny'" in message
    assert "llava 'other'" in message
    assert "--foreign-gates" in message


def test_asked_for_they_exit_and_promise_nothing(other: Path, gates: Path) -> None:
    model = load(other, gates=gates, foreign_gates=True)
    assert model.gates is not None
    assert tiny.alone(model, tiny.prompt(), exits=ExitOptions(aggressiveness=1.0)).exit_layer == 0
    assert not model.grants.calibrated
    assert model.grants.default == ExitOptions(aggressiveness=0.5)
    with pytest.raises(OptionError, match="made for llava 'tiny'") as caught:
        settle(ExitOptions(max_risk=0.02), model.grants)
    assert caught.value.field == "max_risk"
    info = describe(model, build_core(model, EngineConfig(kv_cache_memory=2**20)))
    assert info.exits_hint is not None
    assert "llava 'tiny'" in info.exits_hint
    assert "0.5" in info.exits_hint
    assert info.records == {}


def test_stale_gates_in_a_models_folder_are_left_out(
    other: Path, gates: Path, tmp_path: Path
) -> None:
    """A model that was trained on keeps its old gates beside it; loading must not fail by that."""
    folder = tmp_path / "model"
    shutil.copytree(other, folder)
    shutil.copytree(gates, folder / "gates")
    model = load(folder)
    assert model.gates is None
    assert model.grants.default == ExitOptions("off")
    assert "left out" in model.offers.note
    assert load(folder, foreign_gates=True).gates is not None


def test_a_card_that_names_no_model_is_believed(other: Path, tmp_path: Path) -> None:
    card = GateCard(tiny.HIDDEN, tiny.LAYERS, (0, 1, 2, 3), calibration=MEASURED)
    write_gates(tmp_path, tiny.gates(), card)
    assert load(other, gates=tmp_path).grants.calibrated


def test_depth_is_checked_whatever_is_allowed(other: Path, gates: Path, tmp_path: Path) -> None:
    card = replace(GateCard(tiny.HIDDEN, tiny.LAYERS + 1, (4,)))
    write_gates(tmp_path, tiny.gates(layers=(4,)), card)
    with pytest.raises(ModelError, match="5 layers"):
        load(other, gates=tmp_path, foreign_gates=True)


def test_another_projector_is_another_model(tiny_folder: Path, gates: Path, tmp_path: Path) -> None:
    """Models share frozen decoders; what the text sees of an image differs all the same."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("gates"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "multi_modal_projector.linear_1.weight" in name)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="made for"):
        load(folder, gates=gates)


def test_the_parts_sum_up_to_the_model(plain_model: dyvte.Model) -> None:
    found = parameters_by_part(plain_model.adapter)
    assert sum(found.values()) * 4 == plain_model.adapter.parameter_bytes()
    assert found["other"] == 0
    assert found["LM head"] == tiny.HIDDEN * tiny.VOCAB
    assert found["projector"] == 16 * tiny.HIDDEN + tiny.HIDDEN + tiny.HIDDEN**2 + tiny.HIDDEN


@pytest.mark.anyio
async def test_over_http_a_promise_is_a_400_that_names_the_other_model(
    other: Path, gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYVTE_FOREIGN_GATES", "1")
    asked = {"model": "other", "messages": ask("what?", png()), "max_tokens": 2}
    given = {"model": str(other), "gates": str(gates), "kv_cache_memory": 2**20}
    async with connected(**given) as client:
        plain = await client.post("/v1/chat/completions", json=asked)
        risk = asked | {"dyvte": {"max_risk": 0.02}}
        promised = await client.post("/v1/chat/completions", json=risk)
    assert plain.status_code == 200, plain.text
    assert plain.json()["dyvte"]["aggressiveness"] == 0.5
    assert promised.status_code == 400
    error = promised.json()["error"]
    assert error["param"] == "dyvte.max_risk"
    assert "made for llava 'tiny'" in error["message"]
