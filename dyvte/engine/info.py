"""What a loaded model offers to whoever serves it: policies, presets, and what to know of them."""

from __future__ import annotations

from dyvte.engine.core import EngineCore
from dyvte.engine.events import ModelInfo
from dyvte.exits.grants import Grants
from dyvte.exits.prune.methods import prune_methods
from dyvte.model import Model


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
        presets=grants.presets(conversation=False),
        conversation_presets=grants.presets(conversation=True),
        conversation_default=grants.default_for(conversation=True),
        records=grants.records(),
        has_gates=bool(grants.gated_layers),
        calibrated=grants.calibrated,
        exits_hint=_hint(grants),
        strips_leading_space=bool(model.token_bytes and model.token_bytes.strips_leading_space),
        prune_methods=tuple(prune_methods()),
        weights=model.weights,
    )


def _hint(grants: Grants) -> str | None:
    """What an operator should know about this model's exits, if anything."""
    if grants.offers.note:
        how = "the default is the paper's rule, aggressiveness 0.5"
        return f"{grants.offers.note}; {how if grants.gated_layers else 'images stay'}"
    if grants.calibrated:
        default = grants.default
        if default.policy == "off" or default.aggressiveness == 0.0:
            return (
                "the calibration does not prove the preset balanced, so images stay by default: "
                "calibrate on more samples (see docs/exits.md)"
            )
        return None
    if not grants.gated_layers:
        return (
            "no gates and no calibration, so images stay. Savings within minutes: "
            "dyvte collect --labels self on a few hundred questions of your own, dyvte calibrate "
            "--data THAT --out DIR, and serve with --gates DIR (see docs/exits.md)"
        )
    return (
        "these gates carry no calibration: nobody measured how many answers an exit changes; "
        "the default is the paper's rule, aggressiveness 0.5 (see dyvte calibrate)"
    )
