"""``max_risk`` and presets → plain exit options, by what a calibration measured.

A preset is what a gate card says (``{"policy": "gate", "max_risk": 0.02}``) and may promise a
risk also for ``fixed``, where a request cannot. Explicit wishes that no measurement covers are
errors that say what to run; presets and the default keep the image instead, since nobody asked
for anything in particular. Knows no torch and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dyvte.errors import OptionError
from dyvte.exits.calibration import Calibration, Point
from dyvte.params import ExitOptions

PAPER_AGGRESSIVENESS = 0.5
RISKS = {"safe": 0.005, "balanced": 0.02}
FIXED_AGGRESSIVE_RISK = 0.05  # a fixed layer has no argmax that "aggressive" could be

# Aggressiveness behind the aliases of gates that nobody measured.
UNMEASURED: Mapping[str, Mapping[str, Any]] = {
    "safe": {"aggressiveness": 0.25},
    "balanced": {"aggressiveness": PAPER_AGGRESSIVENESS},
    "aggressive": {"aggressiveness": 0.75},
}

Preset = Mapping[str, Any]


def presets_for(
    policy: str, risks: Mapping[str, float] = MappingProxyType(RISKS)
) -> dict[str, dict[str, Any]]:
    """What ``dyvte calibrate`` writes into the card of a model whose default is ``policy``.

    ``risks``: the promises of "safe" and "balanced".
    """
    named: dict[str, dict[str, Any]] = {
        name: {"policy": policy, "max_risk": risk} for name, risk in risks.items()
    }
    bold: dict[str, Any] = {"policy": policy, "aggressiveness": PAPER_AGGRESSIVENESS}
    if policy == "fixed":
        bold = {"policy": policy, "max_risk": FIXED_AGGRESSIVE_RISK}
    return named | {"aggressive": bold}


def with_risk(
    options: ExitOptions, calibration: Calibration | None, conversation: bool, note: str = ""
) -> ExitOptions:
    """``options`` with ``max_risk`` turned into its calibrated aggressiveness.

    0 (no exit) where even the most careful setting changed too many answers. Raises OptionError
    where no calibration fits (``note``: why there is none), or too few samples were measured to
    prove such a risk.
    """
    risk = options.max_risk
    if risk is None:
        return options
    curve = calibration.curve(options.policy, conversation) if calibration else None
    if calibration is None or curve is None:
        raise OptionError("max_risk", _unmeasured(options.policy, calibration, conversation, note))
    lowest = curve.lowest_risk(calibration.confidence)
    if risk < lowest:
        raise OptionError(
            "max_risk",
            f"{risk:g} is more than {curve.samples} calibration samples can prove; the lowest is "
            f"{_ceiling(lowest):g} (calibrate on more samples, or ask for aggressiveness)",
        )
    point = curve.boldest(risk)
    return replace(options, max_risk=None, aggressiveness=point.setting if point else 0.0)


def preset_options(
    preset: Preset, calibration: Calibration | None, conversation: bool
) -> ExitOptions:
    """The options that a preset stands for; without a measurement that fits, no exit."""
    if "max_risk" not in preset:
        return ExitOptions.of(preset)
    policy = str(preset.get("policy", "gate"))
    point = _promised(preset, calibration, conversation)
    if policy == "fixed":
        layer = None if point is None else int(point.setting)
        return ExitOptions("off") if layer is None else ExitOptions("fixed", exit_layer=layer)
    return ExitOptions(policy, aggressiveness=point.setting if point else 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a preset did on the calibration samples. FLOPs ratios are means over samples."""

    samples: int
    changed: int
    risk_upper_bound: float
    prefill_saved: float
    request_saved: float


@dataclass(frozen=True, slots=True)
class PresetRecord:
    """A preset's promise (None: it makes none) and its measurements; None where there are none."""

    max_risk: float | None
    confidence: float
    single: Measured | None
    conversation: Measured | None


def record(preset: Preset, calibration: Calibration) -> PresetRecord:
    """What was measured of a preset."""
    risk = preset.get("max_risk")
    kinds = (_measured(preset, calibration, conversation) for conversation in (False, True))
    return PresetRecord(risk, calibration.confidence, *kinds)


def _measured(preset: Preset, calibration: Calibration, conversation: bool) -> Measured | None:
    curve = calibration.curve(str(preset.get("policy", "gate")), conversation)
    if curve is None:
        return None
    point: Point | None
    if "max_risk" in preset:
        point = _promised(preset, calibration, conversation)
    else:
        setting = preset.get("aggressiveness", preset.get("exit_layer"))
        point = None if setting is None else curve.at(float(setting))
    if point is None:
        return Measured(curve.samples, 0, 0.0, 0.0, 0.0)
    saved = point.prefill_saved, point.request_saved
    return Measured(curve.samples, point.changed, point.upper, *saved)


def _promised(preset: Preset, calibration: Calibration | None, conversation: bool) -> Point | None:
    policy = str(preset.get("policy", "gate"))
    curve = calibration.curve(policy, conversation) if calibration else None
    return curve.boldest(float(preset["max_risk"])) if curve else None


def _unmeasured(policy: str, calibration: Calibration | None, conversation: bool, note: str) -> str:
    remedy = "measure it with dyvte collect and dyvte calibrate, or ask for aggressiveness"
    if calibration is None:
        why = f": {note}" if note else ""
        return f"this model's exits carry no calibration{why} ({remedy})"
    if calibration.curve(policy, not conversation) is None:
        return f'policy "{policy}" carries no calibration ({remedy})'
    kind, other = ("single turns", "a conversation")
    if not conversation:
        kind, other = "conversations", "a single turn"
    return f"the calibration covers {kind} and this is {other} ({remedy})"


def _ceiling(risk: float) -> float:
    """Four significant digits, not below ``risk``: what an error tells must be granted."""
    shown = float(f"{risk:.4g}")
    return shown if shown >= risk else float(f"{risk * 1.0005:.4g}")
