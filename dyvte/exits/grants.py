"""What a model can grant to requests: policies, presets and the default. Knows no layer loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from dyvte.exits.offers import Offers
from dyvte.exits.plugins import entry_points
from dyvte.exits.presets import (
    PAPER_AGGRESSIVENESS,
    UNMEASURED,
    Preset,
    PresetRecord,
    preset_options,
    record,
)
from dyvte.params import ExitOptions

GROUP = "dyvte.exit_policies"
DEFAULT = "balanced"


@dataclass(frozen=True, slots=True)
class Grants:
    """A model's depth, the layers that have gates, and what its card offers."""

    num_layers: int
    gated_layers: frozenset[int] = frozenset()
    offers: Offers = field(default_factory=Offers)

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that a request may name."""
        offers = self.offers
        there = {"gate": self.gated_layers, "state": offers.state, "vtw": offers.vtw}
        own = (*(name for name, value in there.items() if value), "fixed", "off")
        return (*own, *(name for name in entry_points(GROUP) if name not in own))

    @property
    def calibrated(self) -> bool:
        """True if what the server does by default has a measured risk."""
        return self._default_policy is not None and self.offers.calibrated(self._default_policy)

    def presets(self, conversation: bool) -> dict[str, ExitOptions]:
        """Options behind each alias for a prompt of this kind."""
        offers = self.offers
        named = {
            name: preset_options(preset, offers.calibration, conversation)
            for name, preset in self._presets.items()
        }
        return {"off": ExitOptions("off")} | named

    def records(self) -> dict[str, PresetRecord]:
        """What was measured of each preset; empty without a calibration."""
        calibration = self.offers.calibration
        if calibration is None or not self.calibrated:
            return {}
        return {name: record(preset, calibration) for name, preset in self._presets.items()}

    @property
    def default(self) -> ExitOptions:
        """What holds for a single turn where a request says nothing."""
        return self.default_for(conversation=False)

    def default_for(self, conversation: bool) -> ExitOptions:
        """``balanced`` where its risk was measured; gates alone decide by the paper's rule.

        Without either nothing leaves. A conversation that no measurement covers never exits.
        """
        if self.calibrated and DEFAULT in self._presets:
            return preset_options(self._presets[DEFAULT], self.offers.calibration, conversation)
        if self.gated_layers:
            return ExitOptions("gate", aggressiveness=PAPER_AGGRESSIVENESS)
        return ExitOptions("off")

    @property
    def _default_policy(self) -> str | None:
        """Gates first; else what the calibration found to save more."""
        calibration = self.offers.calibration
        if calibration is None:
            return None
        if self.gated_layers and self.offers.calibrated("gate"):
            return "gate"
        return calibration.default if calibration.default in self.policies else None

    @property
    def _presets(self) -> dict[str, Preset]:
        """The card's, over guesses where there are gates that nobody measured."""
        guessed = UNMEASURED if self.gated_layers and not self.calibrated else {}
        return {**guessed, **self.offers.presets}
