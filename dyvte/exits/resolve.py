"""From what a request asks (ExitOptions) to what its sequence does (a Policy).

The one place that knows both the request's wishes and what the model can grant. Other packages
add policies through the entry point group ``dyvte.exit_policies``: a callable
``(ExitOptions, Grants) -> ExitPolicy`` that raises OptionError for what makes no sense to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyvte.errors import OptionError
from dyvte.exits.plugins import entry_points
from dyvte.exits.policy import Chain, ExitPolicy, Fixed, Gate, Off, Policy
from dyvte.exits.prune.methods import prune_rule
from dyvte.params import ExitOptions, PruneOptions

PAPER_AGGRESSIVENESS = 0.5
GROUP = "dyvte.exit_policies"


@dataclass(frozen=True, slots=True)
class Grants:
    """What a model can grant: its depth and the layers that have gates."""

    num_layers: int
    gated_layers: frozenset[int] = frozenset()
    calibrated: bool = False

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that a request may name."""
        own = ("gate", "fixed", "off") if self.gated_layers else ("fixed", "off")
        return (*own, *(name for name in entry_points(GROUP) if name not in own))

    @property
    def default(self) -> ExitOptions:
        """Gates decide by the paper's rule where there are gates; else nothing leaves."""
        if self.gated_layers:
            return ExitOptions(policy="gate", aggressiveness=PAPER_AGGRESSIVENESS)
        return ExitOptions(policy="off")


def resolve(options: ExitOptions, grants: Grants) -> Policy:
    """The policy in force. Raises OptionError for what this model cannot do."""
    leave = _exit(options, grants)
    if options.prune is None:
        return leave
    return Chain(prune_rule(PruneOptions.of(options.prune), grants.num_layers), leave)


def _exit(options: ExitOptions, grants: Grants) -> ExitPolicy:
    if options.policy not in grants.policies:
        raise OptionError("policy", _why_not(options.policy, grants))
    if options.max_risk is not None:
        raise OptionError(
            "max_risk", "this model's gates carry no calibration; use aggressiveness instead"
        )
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
    if options.policy != "gate":
        policy: ExitPolicy = entry_points(GROUP)[options.policy](options, grants)
        return policy
    a = PAPER_AGGRESSIVENESS if options.aggressiveness is None else options.aggressiveness
    return Gate(a, grants.gated_layers, options.min_layer or 0, options.max_layer)


def _why_not(policy: str, grants: Grants) -> str:
    offered = ", ".join(f'"{name}"' for name in grants.policies)
    if policy == "gate":
        return f'"gate" needs gates and this model has none (load some with --gates); use {offered}'
    return f'"{policy}" is not available here; use {offered}'
