"""From what a request asks (ExitOptions) to what its sequence does (an ExitPolicy).

The one place that knows both the request's wishes and what the model can grant.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyvte.errors import OptionError
from dyvte.exits.policy import ExitPolicy, Fixed, Gate, Off
from dyvte.params import ExitOptions

PAPER_AGGRESSIVENESS = 0.5


@dataclass(frozen=True, slots=True)
class Grants:
    """What a model can grant: its depth and the layers that have gates."""

    num_layers: int
    gated_layers: frozenset[int] = frozenset()
    calibrated: bool = False

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that a request may name."""
        return ("gate", "fixed", "off") if self.gated_layers else ("fixed", "off")

    @property
    def default(self) -> ExitOptions:
        """Gates decide by the paper's rule where there are gates; else nothing leaves."""
        if self.gated_layers:
            return ExitOptions(policy="gate", aggressiveness=PAPER_AGGRESSIVENESS)
        return ExitOptions(policy="off")


def resolve(options: ExitOptions, grants: Grants) -> ExitPolicy:
    """The policy in force. Raises OptionError for what this model cannot do."""
    if options.policy not in grants.policies:
        raise OptionError("policy", _why_not(options.policy, grants))
    if options.prune is not None:
        raise OptionError("prune", "no pruning method is available for this model")
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
    a = PAPER_AGGRESSIVENESS if options.aggressiveness is None else options.aggressiveness
    return Gate(a, grants.gated_layers, options.min_layer or 0, options.max_layer)


def _why_not(policy: str, grants: Grants) -> str:
    offered = ", ".join(f'"{name}"' for name in grants.policies)
    if policy == "gate":
        return f'"gate" needs gates and this model has none (load some with --gates); use {offered}'
    return f'"{policy}" is not available here; use {offered}'
