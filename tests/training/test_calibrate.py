"""Policies replayed on collected samples whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyvte.data import DataError
from dyvte.errors import ModelError, OptionError
from dyvte.exits.calibration import Calibration, Curve
from dyvte.exits.gate import GateBank
from dyvte.exits.policy import Gate, GateReading
from dyvte.exits.state import State
from dyvte.flops import gate_flops, request_flops
from dyvte.training.calibrate import CalibrateConfig, calibrate, gate_margins
from dyvte.training.replay import Replay, leaves
from dyvte.training.samples import split
from tests.training import made

GATES = made.gates()


def curve(calibration: Calibration, policy: str, conversation: bool = False) -> Curve:
    found = calibration.curve(policy, conversation)
    assert found is not None
    return found


def test_a_replayed_gate_leaves_where_the_policy_would(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c", samples=60)
    margins, _ = gate_margins(collection, GATES)
    settings = (0.01, 0.5, 0.9, 1.0)
    found = leaves(margins, settings)
    logits = {layer: GATES.logits(layer, collection.status_of(layer)) for layer in GATES.layers}
    for at, aggressiveness in enumerate(settings):
        policy = Gate(aggressiveness, GATES.layers)
        for sample in range(len(collection)):
            fired = [
                layer
                for layer in sorted(GATES.layers)
                if policy.decide(layer, GateReading(*logits[layer][sample].tolist()))
            ]
            assert found[at, sample] == (fired[0] if fired else made.LAYERS)


def test_the_curve_counts_changed_answers_and_flops(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c", samples=200)
    whole = calibrate(collection, GATES, CalibrateConfig(("gate",))).calibration
    point = curve(whole, "gate").at(0.5)
    assert point is not None
    margins, _ = gate_margins(collection, GATES)
    exits = leaves(margins, (0.5,))[0]
    assert collection.consistent is not None
    wrong = [e < made.LAYERS and not collection.consistent[i, e] for i, e in enumerate(exits)]
    assert point.changed == sum(wrong)
    assert point.exits == tuple(np.bincount(exits, minlength=made.LAYERS + 1).tolist())
    cost = gate_flops(made.HIDDEN, 2)
    saved = []
    for layer in exits:
        kept = min(layer + 1, made.LAYERS)
        rows = [made.TEXT + made.VISUAL] * kept + [made.TEXT] * (made.LAYERS - kept)
        asked = sum(1 for each in GATES.layers if each <= layer)
        saved.append(
            request_flops(
                made.SHAPE,
                vision=1000,
                prompt_tokens=made.TEXT + made.VISUAL,
                tokens_per_layer=rows,
                decode_steps=[made.ANSWER - 1],
                gates=asked * cost,
            ).saved_ratio
        )
    assert point.request_saved == pytest.approx(np.mean(saved), abs=1e-6)
    assert point.prefill_saved > point.request_saved


def test_the_measured_risk_holds_on_other_samples(tmp_path: Path) -> None:
    """One draw of each; how often it holds is counted in ``benchmarks/calibration_holds.py``."""
    whole = calibrate(made.collected(tmp_path / "c", samples=1000), GATES).calibration
    fresh = made.collected(tmp_path / "d", samples=4000, seed=1)
    margins, _ = gate_margins(fresh, GATES)
    unchanged = Replay.of(fresh, 0.95).unchanged
    chosen = curve(whole, "gate").boldest(0.05)
    assert chosen is not None
    exits = leaves(margins, (chosen.setting,))[0]
    risk = float((~unchanged[np.arange(len(fresh)), exits]).mean())
    assert 0.0 < risk <= 0.05
    assert chosen.prefill_saved > 0.1


def test_fixed_is_measured_from_the_deepest_layer_on(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c")
    whole = calibrate(collection, None, CalibrateConfig(("fixed",))).calibration
    points = curve(whole, "fixed").points
    assert [point.setting for point in points] == [4, 3, 2, 1, 0]
    assert collection.consistent is not None
    assert points[0].changed == int((~collection.consistent[:, 4]).sum())
    assert points[0].exits[4] == len(collection)
    assert whole.default == "fixed"


def test_state_finds_the_signal_that_tells_and_beats_one_layer_for_all(tmp_path: Path) -> None:
    findings = calibrate(made.collected(tmp_path / "c", samples=1500, noise=0.3), None)
    state = findings.state
    assert state is not None
    assert state.scale.signal == "pull_last"
    assert state.scale.layers == (0, 1, 2, 3, 4)  # an exit after the last layer saves nothing
    assert all(weight < 0 for weight in state.scale.weight)
    assert state.saved["pull_last"] > state.saved["fixed"] >= state.saved["mass_last"] - 0.1
    assert findings.calibration.default == "state"
    bold = curve(findings.calibration, "state").boldest(0.02)
    one = curve(findings.calibration, "fixed").boldest(0.02)
    assert bold is not None
    assert bold.prefill_saved > (one.prefill_saved if one else 0.0)


def test_a_replayed_state_leaves_where_the_policy_would(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c", samples=300)
    state = calibrate(collection, None).state
    assert state is not None
    for aggressiveness in (0.02, 0.5, 0.97):
        policy = State(aggressiveness, state.scale)
        found = leaves(state.margins, (aggressiveness,))[0]
        for sample in range(40):
            logs = collection.signals[sample, :, 0].log().tolist()
            fired = [e for e in state.scale.layers if policy.decide(e, (logs[e],))]
            assert found[sample] == (fired[0] if fired else made.LAYERS)


def test_without_a_signal_that_tells_one_layer_for_all_is_the_default(tmp_path: Path) -> None:
    findings = calibrate(made.collected(tmp_path / "c", samples=400, noise=9.0), None)
    assert findings.calibration.default == "fixed"


def test_samples_that_fit_never_measure_and_a_picture_counts_once(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c", per_picture=4, conversation_share=0.5)
    parts = split(collection, 0.4, 0)
    groups = collection.groups.numpy()
    for kind, rows in parts.measuring.items():
        assert not set(groups[rows]) & set(groups[parts.fitting])
        assert len(set(groups[rows])) == len(rows)
        assert set(rows) <= set(parts.whole[kind])
    assert not collection.conversation[parts.whole["single"]].any()
    assert collection.conversation[parts.whole["conversation"]].all()
    findings = calibrate(collection, GATES)
    assert curve(findings.calibration, "gate").samples == len(parts.whole["single"])
    assert any("one question each" in warning for warning in findings.warnings)


def test_conversations_have_curves_of_their_own(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c", samples=600, conversation_share=0.3)
    whole = calibrate(collection, GATES).calibration
    alone, turns = curve(whole, "gate"), curve(whole, "gate", conversation=True)
    assert alone.samples + turns.samples == 600
    assert turns.samples == int(collection.conversation.sum())
    single = calibrate(made.collected(tmp_path / "d"), GATES).calibration
    assert single.curve("gate", conversation=True) is None


def test_vtw_takes_the_first_layer_whose_kl_is_small(tmp_path: Path) -> None:
    collection = made.collected(tmp_path / "c")
    mean = collection.kl.mean(0).tolist()
    found = calibrate(collection, None, CalibrateConfig(("vtw",), vtw_eta=mean[3] * 1.01)).vtw
    assert found is not None
    assert found.k == 4
    assert found.kl == pytest.approx(mean, rel=1e-6)
    assert calibrate(collection, None, CalibrateConfig(("vtw",), vtw_eta=1e-9)).vtw is None


def test_too_few_samples_are_told(tmp_path: Path) -> None:
    warnings = calibrate(
        made.collected(tmp_path / "c", samples=200), GATES, CalibrateConfig(("gate",))
    ).warnings
    (warning,) = warnings
    assert "200 samples are too few for safe (0.5% needs 598)" in warning
    assert "balanced" not in warning


def test_what_cannot_be_measured_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--labels self"):
        calibrate(made.collected(tmp_path / "c", labels=False), GATES)
    collection = made.collected(tmp_path / "d")
    with pytest.raises(ModelError, match="layer 7"):
        calibrate(collection, made.gates((7,)))
    wide = GateBank({0: GATES.w1[1].repeat(1, 2)}, {0: GATES.w2[1]})
    with pytest.raises(ModelError, match="hidden size"):
        calibrate(collection, wide)


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"policies": ("gate", "magic")}, "policies"),
        ({"confidence": 1.0}, "confidence"),
        ({"fit_share": 0.0}, "fit_share"),
        ({"vtw_eta": 0.0}, "vtw_eta"),
    ],
)
def test_settings_out_of_range_name_the_field(how: dict[str, object], field: str) -> None:
    with pytest.raises(OptionError) as caught:
        CalibrateConfig(**how)  # type: ignore[arg-type]
    assert caught.value.field == field
