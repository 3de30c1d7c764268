"""`dyvte calibrate`, from a collection to a card that a model is loaded with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dyvte.cli import main
from dyvte.exits.files import GateCard, read_gates, write_gates
from dyvte.exits.gate import GateBank
from dyvte.exits.grants import Grants
from dyvte.exits.offers import Offers
from dyvte.exits.origin import Origin
from dyvte.params import ExitOptions
from tests.training import made

CARD = GateCard(made.HIDDEN, made.LAYERS, (1, 2, 3, 4), trained_on="pictures of elsewhere")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write(tmp_path_factory.mktemp("collected") / "c", samples=1500, noise=0.3)


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    write_gates(tmp_path / "gates", made.gates(), CARD)
    return tmp_path / "gates"


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["calibrate", *map(str, argv)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_gates_are_measured_in_their_own_folder(
    collection: Path, gates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (gates / "gates.safetensors").read_bytes()
    assert main(["calibrate", "--data", str(collection), "--gates", str(gates)]) == 0
    assert (gates / "gates.safetensors").read_bytes() == before
    bank, card = read_gates(gates)
    assert bank is not None
    assert card is not None
    assert (card.trained_on, card.layers) == (CARD.trained_on, CARD.layers)
    offered = Grants(made.LAYERS, bank.layers, Offers.of(card))
    assert offered.policies == ("gate", "state", "fixed", "off")
    balanced = offered.default
    assert balanced.policy == "gate"
    assert 0.0 < (balanced.aggressiveness or 0.0) < 0.5
    assert offered.presets(False)["aggressive"] == ExitOptions(aggressiveness=0.5)
    said = capsys.readouterr().out
    assert "≤ 2.0%" in said
    assert "the server's default will be gate" in said
    assert "state reads pull_last" in said
    assert "vtw is not offered" in said


def test_a_model_without_gates_gets_a_card_alone(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "card"
    argv = ["calibrate", "--data", str(collection), "--out", str(out), "--vtw-eta", "1.0"]
    assert main(argv) == 0
    assert [path.name for path in out.iterdir()] == ["gates.json"]
    bank, card = read_gates(out)
    assert bank is None
    offered = Grants(made.LAYERS, frozenset(), Offers.of(card))
    assert offered.policies == ("state", "vtw", "fixed", "off")
    assert offered.default.policy == "state"
    assert (offered.default.aggressiveness or 0.0) > 0.0
    assert offered.calibrated
    plain = json.loads((out / "gates.json").read_text())
    assert plain["state"].keys() == {"signal", "layers", "weight", "bias"}
    assert plain["vtw"].keys() == {"k", "eta", "layers", "kl"}
    assert plain["calibration"]["notes"]["samples"] == 1500


def test_gates_go_along_to_another_folder(collection: Path, gates: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured"
    argv = ["calibrate", "--data", collection, "--gates", gates, "--out", out, "--policies", "gate"]
    assert main([str(word) for word in argv]) == 0
    bank, card = read_gates(out)
    assert bank is not None
    assert bank.layers == {1, 2, 3, 4}
    assert card is not None
    assert card.state is None
    assert card.calibration is not None
    assert list(card.calibration["curves"]) == ["gate"]
    assert read_gates(gates)[1] == CARD


def test_few_samples_are_warned_of_and_never_exit(
    gates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = made.write(tmp_path / "few", samples=100)
    argv = ["calibrate", "--data", few, "--gates", gates, "--policies", "gate"]
    assert main([str(word) for word in argv]) == 0
    warned = capsys.readouterr().err
    assert "100 samples are too few for safe (0.5% needs 598) and balanced (2% needs 149)" in warned
    bank, card = read_gates(gates)
    assert bank is not None
    assert Grants(made.LAYERS, bank.layers, Offers.of(card)).default.aggressiveness == 0.0


def test_gates_are_not_measured_on_what_they_were_trained_on(
    collection: Path, gates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "0123456789abcdef"
    settings = json.loads((collection / "collection.json").read_text())
    settings["settings"]["data_digest"] = digest
    (collection / "collection.json").write_text(json.dumps(settings))
    for card in (
        replace(CARD, training_data=digest),
        replace(CARD, trained_on=f"6000 samples of data {digest[:12]}"),
    ):
        write_gates(gates, made.gates(), card)
        said = refused(capsys, "--data", collection, "--gates", gates)
        assert "trained on this very data" in said


def test_a_policy_that_no_sample_is_left_for_is_not_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that the default would be ``state``, ≤ 2 % changed, with nothing measured."""
    few, out = made.write(tmp_path / "few", samples=20), tmp_path / "out"
    assert main(["calibrate", "--data", str(few), "--out", str(out), "--fit-share", "0.999"]) == 0
    said = capsys.readouterr()
    assert "warning: state: no sample is left to measure it" in said.err
    assert "default will be" not in said.out
    calibration = json.loads((out / "gates.json").read_text())["calibration"]
    assert (calibration["curves"], calibration["default"]) == ({}, None)


def test_wrong_words_are_one_line_each(
    collection: Path, gates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", collection)
    assert "--out is missing" in refused(capsys, *data)
    assert "holds gates" in refused(capsys, *data, "--out", gates)
    assert "dyvte collect" in refused(capsys, "--data", tmp_path / "none", "--gates", gates)
    assert "does not exist" in refused(capsys, *data, "--gates", tmp_path / "none")
    out = ("--out", tmp_path / "out")
    assert "no gates to measure" in refused(capsys, *data, *out, "--policies", "gate")
    assert "--policies 'magic'" in refused(capsys, *data, *out, "--policies", "magic")
    assert "--policies names none" in refused(capsys, *data, *out, "--policies", ",")
    assert "--confidence must lie" in refused(capsys, *data, *out, "--confidence", "2")
    wide = {0: torch.zeros(4, 10)}  # copied beside a card of this model where not measured
    write_gates(tmp_path / "wide", GateBank(wide, {0: torch.zeros(2, 4)}), replace(CARD, layers=()))
    wide_gates = ("--gates", tmp_path / "wide", "--policies", "state")
    assert "made for hidden size 5" in refused(capsys, *data, *out, *wide_gates)
    unlabelled = made.write(tmp_path / "c", samples=10, labels=False)
    assert "--labels self" in refused(capsys, "--data", unlabelled, *out)
    assert not (tmp_path / "out").exists()


HERE, THERE = Origin("llava", "here", "3c0a3d10"), Origin("llava", "there", "3c0a3e44")


def test_gates_of_another_model_are_measured_when_asked_and_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their promise is about the model of the data from then on."""
    gates, out = tmp_path / "gates", tmp_path / "measured"
    write_gates(gates, made.gates(), replace(CARD, model=THERE))
    data = made.write(tmp_path / "c", samples=700, noise=0.3, model=HERE)
    argv = ["--data", data, "--gates", gates, "--policies", "gate"]
    line = refused(capsys, *argv)
    assert "'there'" in line
    assert "'here'" in line
    assert "--foreign-gates" in line
    assert "--out" in refused(capsys, *argv, "--foreign-gates")
    whole = ["calibrate", *argv, "--foreign-gates", "--out", out]
    assert main([str(word) for word in whole]) == 0
    _, card = read_gates(out)
    assert card is not None
    assert card.model == HERE
    assert card.trained_on == CARD.trained_on
    assert read_gates(gates)[1] == replace(CARD, model=THERE)


def test_the_promises_of_presets_can_be_chosen(
    collection: Path, gates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["calibrate", "--data", collection, "--gates", gates, "--safe", 0.01, "--balanced", 0.05]
    assert main([str(word) for word in argv]) == 0
    assert "the server's default will be gate, ≤ 5 % changed" in capsys.readouterr().out
    _, card = read_gates(gates)
    assert card is not None
    assert card.presets["safe"] == {"policy": "gate", "max_risk": 0.01}
    assert card.presets["balanced"] == {"policy": "gate", "max_risk": 0.05}
    error = refused(capsys, *argv[1:], "--safe", 0.2)
    assert "safe" in error
    assert "0.2 is above balanced" in error
