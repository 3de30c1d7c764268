"""Measure what exits do on collected samples; no language model is needed here.

Nothing is chosen by looking at the samples that measure a risk: the grid is fixed, and ``state``
is fitted, and preferred (or not) to ``fixed``, on a part of its own.

Shapes: N samples, C collected layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dyvte.data import DataError
from dyvte.errors import OptionError
from dyvte.exits.binomial import samples_needed
from dyvte.exits.calibration import CONFIDENCE, KINDS, Calibration, Curve
from dyvte.exits.files import GateCard
from dyvte.exits.gate import GateBank
from dyvte.exits.presets import RISKS
from dyvte.exits.vtw import ETA, VtwRule, find_k
from dyvte.flops import gate_flops
from dyvte.training.collection import Collection
from dyvte.training.exit_cost import asked_up_to
from dyvte.training.replay import Flops, Margins, Replay
from dyvte.training.samples import Parts, split
from dyvte.training.state_choice import StateChoice, choose_state

POLICIES = ("gate", "state", "fixed", "vtw")


@dataclass(frozen=True, slots=True)
class CalibrateConfig:
    """``fit_share`` of the pictures fit the scale of ``state`` and measure nothing.

    ``safe`` and ``balanced`` are what the presets of these names promise: shares of changed
    answers.
    """

    policies: tuple[str, ...] = POLICIES
    confidence: float = CONFIDENCE
    fit_share: float = 0.4
    seed: int = 0
    vtw_eta: float = ETA
    safe: float = RISKS["safe"]
    balanced: float = RISKS["balanced"]

    def __post_init__(self) -> None:
        if not self.policies:
            raise OptionError("policies", f"names none of {', '.join(POLICIES)}")
        for policy in self.policies:
            if policy not in POLICIES:
                raise OptionError("policies", f"{policy!r} is none of {', '.join(POLICIES)}")
        for name in ("confidence", "fit_share"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise OptionError(name, f"must lie between 0 and 1, not {value}")
        for name, risk in self.risks.items():
            if not 0.0 < risk < 1.0:
                raise OptionError(name, f"must lie between 0 and 1, not {risk}")
        if self.safe > self.balanced:
            raise OptionError("safe", f"{self.safe:g} is above balanced, {self.balanced:g}")
        if not self.vtw_eta > 0.0:
            raise OptionError("vtw_eta", f"must be above 0, not {self.vtw_eta}")

    @property
    def risks(self) -> dict[str, float]:
        """Promises by preset."""
        return {"safe": self.safe, "balanced": self.balanced}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a calibration found; ``state`` and ``vtw`` are None where not asked for or not found.

    ``warnings`` are whole sentences for whoever asked.
    """

    calibration: Calibration
    state: StateChoice | None
    vtw: VtwRule | None
    warnings: tuple[str, ...]


def calibrate(
    collection: Collection, gates: GateBank | None, config: CalibrateConfig | None = None
) -> Findings:
    """Measure the policies of ``config``. Raises DataError, ModelError."""
    settings = config or CalibrateConfig()
    replay = Replay.of(collection, settings.confidence)
    parts = split(collection, settings.fit_share, settings.seed)
    curves: dict[str, dict[str, Curve]] = {}
    if "gate" in settings.policies and gates is not None:
        margins, cost = gate_margins(collection, gates)
        curves["gate"] = {
            kind: replay.gated(rows, margins, cost)
            for kind, rows in parts.whole.items()
            if len(rows)
        }
    state = None
    if "state" in settings.policies:
        state = choose_state(replay, parts.fitting, settings.seed)
    if state is not None:
        curves["state"] = {
            kind: replay.gated(rows, state.margins, state.cost)
            for kind, rows in parts.measuring.items()
            if len(rows)
        }
    if "fixed" in settings.policies:
        chosen = parts.whole if state is None else parts.measuring
        curves["fixed"] = {kind: replay.fixed(rows) for kind, rows in chosen.items() if len(rows)}
    # A part without samples measured nothing, and what was not measured is no default.
    unmeasured = [policy for policy, kinds in curves.items() if not kinds]
    curves = {policy: kinds for policy, kinds in curves.items() if kinds}
    calibration = Calibration(
        confidence=settings.confidence,
        curves=curves,
        default=_default(curves, state),
        max_answer_tokens=int(collection.answer_tokens.max()),
        collection=str(collection.settings.get("data_digest", "")),
        notes=_notes(collection, settings, state),
    )
    warnings = (
        *(
            f"{policy}: no sample is left to measure it (lower --fit-share)"
            for policy in unmeasured
        ),
        *_warnings(collection, parts, calibration, settings),
    )
    return Findings(calibration, state, _vtw(collection, parts, settings), warnings)


def _notes(
    collection: Collection, config: CalibrateConfig, state: StateChoice | None
) -> dict[str, Any]:
    """What was measured on, for whoever reads the card."""
    asked = ("model", "model_digest", "dtype", "device", "data", "limit", "max_tokens")
    notes = {name: collection.settings[name] for name in asked if name in collection.settings}
    notes |= {"samples": len(collection), "seed": config.seed, "fit_share": config.fit_share}
    if state is not None:
        saved = {name: round(value, 4) for name, value in state.saved.items()}
        notes["prefill_saved_at_2_percent_on_fitting_part"] = saved
    return notes


def check_unseen(collection: Collection, card: GateCard | None) -> None:
    """Raise DataError if the gates were fitted on the same data: their risk would look too low."""
    digest = collection.settings.get("data_digest")
    if card is None or not digest:
        return
    if digest == card.training_data or digest[:12] in card.trained_on:
        raise DataError(
            "these gates were trained on this very data, which makes their risk look too low; "
            "collect other pictures and questions"
        )


def gate_margins(collection: Collection, gates: GateBank) -> tuple[Margins, Flops]:
    """Exit minus keep logit ``[N, C]`` (NaN without a gate), and the gates' cost ``[N, C + 1]``.

    Raises ModelError, DataError.
    """
    gates.check(collection.shape.hidden_size, collection.num_layers)
    missing = gates.layers - set(collection.layers)
    if missing:
        raise DataError(
            f"layer {min(missing)} has a gate but was not collected; collect at every layer"
        )
    margins = np.full((len(collection), len(collection.layers)), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for layer in sorted(gates.layers):
            logits = gates.logits(layer, collection.status_of(layer))
            margins[:, collection.layers.index(layer)] = (logits[:, 1] - logits[:, 0]).numpy()
    width = collection.shape.hidden_size
    cost = {layer: gate_flops(width, gates.inner(layer)) for layer in gates.layers}
    return margins, asked_up_to(collection.layers, cost, len(collection))


def _default(curves: dict[str, dict[str, Curve]], state: StateChoice | None) -> str | None:
    """Gates where there are some; else what saved more on the fitting part."""
    if "gate" in curves:
        return "gate"
    if state is not None and "fixed" in curves:
        return "state" if state.beats_fixed else "fixed"
    return next(iter(curves), None)


def _vtw(collection: Collection, parts: Parts, config: CalibrateConfig) -> VtwRule | None:
    if "vtw" not in config.policies:
        return None
    rows = np.concatenate(list(parts.whole.values()))
    mean = collection.kl.double().numpy()[rows].mean(0)
    return find_k(collection.layers, mean.tolist(), collection.num_layers, config.vtw_eta)


def _warnings(
    collection: Collection, parts: Parts, calibration: Calibration, config: CalibrateConfig
) -> tuple[str, ...]:
    found = []
    used = sum(len(rows) for rows in parts.whole.values())
    if used < len(collection):
        found.append(
            f"{len(collection)} samples are about {used} pictures: one question each is used, "
            "since a bound needs samples that are independent"
        )
    for policy, kinds in calibration.curves.items():
        for kind in KINDS:
            if kind in kinds:
                found += _too_few(policy, kind, kinds[kind], config)
    return tuple(found)


def _too_few(policy: str, kind: str, curve: Curve, config: CalibrateConfig) -> list[str]:
    """The strictest preset that so many samples cannot prove, if there is one."""
    risks = config.risks
    needed = {name: samples_needed(risk, config.confidence) for name, risk in risks.items()}
    short = [name for name, samples in needed.items() if curve.samples < samples]
    if not short:
        return []
    names = " and ".join(
        f"{name} ({risks[name] * 100:.3g}% needs {needed[name]})" for name in short
    )
    return [f"{policy}, {kind}: {curve.samples} samples are too few for {names}: it never exits"]
