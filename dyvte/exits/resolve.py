"""From what a request asks (ExitOptions) to what its sequence does (a Policy).

The one place that knows both the request's wishes and what the model can grant. Other packages
add policies through the entry point group ``dyvte.exit_policies``: a callable
``(ExitOptions, Grants) -> ExitPolicy`` that raises OptionError for what makes no sense to it.
"""

from __future__ import annotations

from dataclasses import replace

from dyvte.errors import OptionError
from dyvte.exits.grants import DEFAULT, GROUP, Grants
from dyvte.exits.plugins import entry_points
from dyvte.exits.policy import Chain, ExitPolicy, Fixed, Gate, Off, Policy
from dyvte.exits.presets import PAPER_AGGRESSIVENESS, RISKS, preset_options, with_risk
from dyvte.exits.prune.methods import prune_rule
from dyvte.exits.state import State
from dyvte.exits.vtw import Vtw
from dyvte.params import ExitOptions, PruneOptions

__all__ = ["Grants", "resolve", "settle"]


def settle(options: ExitOptions, grants: Grants, conversation: bool = False) -> ExitOptions:
    """``options`` with ``max_risk`` and what they leave open turned into an aggressiveness.

    Raises OptionError for a risk that was not measured for such a prompt.
    """
    if options.policy not in grants.policies:
        raise OptionError("policy", _why_not(options.policy, grants))
    offers = grants.offers
    options = with_risk(options, offers.calibration, conversation, offers.note)
    if options.aggressiveness is None and options.policy in ("gate", "state"):
        a = PAPER_AGGRESSIVENESS
        if options.policy == "state":
            a = _balanced(grants, conversation)
        options = replace(options, aggressiveness=a)
    return options


def resolve(options: ExitOptions, grants: Grants, conversation: bool = False) -> Policy:
    """The policy in force. Raises OptionError for what this model cannot do."""
    leave = _exit(settle(options, grants, conversation), grants)
    if options.prune is None:
        return leave
    return Chain(prune_rule(PruneOptions.of(options.prune), grants.num_layers), leave)


def _exit(options: ExitOptions, grants: Grants) -> ExitPolicy:
    last = grants.num_layers - 1
    for name in ("exit_layer", "min_layer", "max_layer"):
        value = getattr(options, name)
        if value is not None and value > last:
            raise OptionError(name, f"{value} is out of range: the layers are 0..{last}")
    if options.policy == "off":
        return Off()
    if options.policy == "fixed":
        assert options.exit_layer is not None, "checked by ExitOptions"
        return Fixed(options.exit_layer)
    if options.policy == "vtw":
        assert grants.offers.vtw is not None, "or it would not be offered"
        return Vtw(max(grants.offers.vtw.k - 1, options.min_layer or 0))
    if options.policy not in ("gate", "state"):
        policy: ExitPolicy = entry_points(GROUP)[options.policy](options, grants)
        _check_range(policy, options, last)
        return policy
    a, layers = options.aggressiveness, (options.min_layer or 0, options.max_layer)
    assert a is not None, "settled"
    if options.policy == "gate":
        return Gate(a, grants.gated_layers, *layers)
    assert grants.offers.state is not None, "or it would not be offered"
    return State(a, grants.offers.state, *layers)


def _check_range(policy: ExitPolicy, options: ExitOptions, last: int) -> None:
    """Raise OptionError if a policy of another package would fire outside the allowed layers."""
    low, high = options.min_layer or 0, last if options.max_layer is None else options.max_layer
    if (low, high) == (0, last):
        return
    for layer in filter(policy.may_fire, range(last + 1)):
        if not low <= layer <= high:
            name = "min_layer" if layer < low else "max_layer"
            raise OptionError(name, f'"{options.policy}" does not keep to {low}..{high}')


def _balanced(grants: Grants, conversation: bool) -> float:
    """``state`` has no argmax of a paper's: who names no number gets the promise of 2 %."""
    preset = {"policy": "state", "max_risk": RISKS[DEFAULT]}
    a = preset_options(preset, grants.offers.calibration, conversation).aggressiveness
    return a or 0.0


def _why_not(policy: str, grants: Grants) -> str:
    offered = ", ".join(f'"{name}"' for name in grants.policies)
    if policy == "gate":
        return f'"gate" needs gates and this model has none (load some with --gates); use {offered}'
    if policy in ("state", "vtw"):
        return (
            f'"{policy}" needs a calibration of this model (dyvte collect, then dyvte calibrate); '
            f"use {offered}"
        )
    return f'"{policy}" is not available here; use {offered}'
