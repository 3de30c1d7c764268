"""The pruning methods by name: ours, and those that other packages bring.

A package adds one through the entry point group ``dyvte.prune_methods``: a callable
``(PruneOptions, num_layers) -> PruneRule`` that raises OptionError for settings that make no
sense to it. The name of the entry point is the name in the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dyvte.errors import OptionError
from dyvte.exits.plugins import entry_points
from dyvte.exits.prune.dart import Dart
from dyvte.exits.prune.divprune import DivPrune
from dyvte.exits.prune.fastv import FastV
from dyvte.exits.prune.pyramiddrop import PyramidDrop
from dyvte.exits.prune.rule import PruneRule
from dyvte.exits.prune.v2drop import V2Drop
from dyvte.params import PruneOptions

GROUP = "dyvte.prune_methods"
Factory = Callable[[PruneOptions, int], PruneRule]

BUILT_IN: Mapping[str, Factory] = {
    "fastv": FastV.of,
    "pyramiddrop": PyramidDrop.of,
    "dart": Dart.of,
    "v2drop": V2Drop.of,
    "divprune": DivPrune.of,
}


def prune_methods() -> Mapping[str, Factory]:
    """All methods that a request may name; ours win over entry points of the same name."""
    return {**entry_points(GROUP), **BUILT_IN}


def prune_rule(options: PruneOptions, num_layers: int) -> PruneRule:
    """The rule that a request asks for. Raises OptionError."""
    methods = prune_methods()
    if options.method not in methods:
        raise OptionError(
            "prune.method", f"{options.method!r} is not known; known are {', '.join(methods)}"
        )
    rule = methods[options.method](options, num_layers)
    field = "prune.layer" if options.stages is None else "prune.stages"
    layers = [layer for layer, _ in rule.stages]
    for layer, share in rule.stages:
        if not rule.first_layer <= layer < num_layers:
            raise OptionError(
                field,
                f'{layer} is out of range: "{options.method}" can act before the layers '
                f"{rule.first_layer}..{num_layers - 1}",
            )
        if not 0.0 <= share <= 1.0:
            raise OptionError(field, f"a share kept must be between 0 and 1, not {share}")
    if sorted(set(layers)) != layers:
        raise OptionError(field, f"the layers must rise, not {layers}")
    return rule
