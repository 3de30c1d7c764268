"""What a loaded model offers to whoever serves it: policies, presets, and what to know of them."""

from __future__ import annotations

from dyvte.engine.core import EngineCore
from dyvte.engine.events import ModelInfo
from dyvte.model import Model
from dyvte.params import ExitOptions

# Aggressiveness behind the aliases of gates whose card names none.
UNMEASURED = {"safe": 0.25, "balanced": 0.5, "aggressive": 0.75}


def describe(model: Model, core: EngineCore) -> ModelInfo:
    """What a loaded model offers, for whoever serves it."""
    adapter, grants = model.adapter, model.grants
    return ModelInfo(
        family=adapter.family,
        num_layers=adapter.decoder.num_layers,
        vocab_size=adapter.decoder.vocab_size,
        max_model_len=core.max_model_len,
        dtype=str(adapter.dtype).removeprefix("torch."),
        device=str(adapter.device),
        attention=core.runner.attention.name,
        policies=grants.policies,
        default_exits=grants.default,
        presets=_presets(model),
        has_gates=bool(grants.gated_layers),
        calibrated=False,
        exits_hint=_hint(model),
        strips_leading_space=bool(model.token_bytes and model.token_bytes.strips_leading_space),
    )


def _presets(model: Model) -> dict[str, ExitOptions]:
    """Options behind the aliases: the gates' own card may say better than these."""
    presets = {"off": ExitOptions(policy="off")}
    if model.grants.gated_layers:
        for name, aggressiveness in UNMEASURED.items():
            presets[name] = ExitOptions(aggressiveness=aggressiveness)
        card = model.gate_card.presets if model.gate_card else {}
        presets |= {name: ExitOptions.of(options) for name, options in card.items()}
    return presets


def _hint(model: Model) -> str | None:
    """What an operator should know about this model's exits, if anything."""
    if not model.grants.gated_layers:
        return "no gates: serve with --gates DIR (see docs/exits.md) or ask for policy fixed"
    if model.gate_card is None or model.gate_card.calibration is None:
        return (
            "these gates carry no calibration: nobody measured how many answers an exit changes; "
            "the default is the paper's rule, aggressiveness 0.5 (see docs/exits.md)"
        )
    return None
