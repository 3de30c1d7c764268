"""What a gate card offers beside gates, read once and checked: measurements, scales, presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dyvte.errors import DyvteError, ModelError
from dyvte.exits.calibration import Calibration
from dyvte.exits.files import GateCard
from dyvte.exits.presets import Preset, preset_options
from dyvte.exits.state import StateScale
from dyvte.exits.vtw import VtwRule


@dataclass(frozen=True, slots=True)
class Offers:
    """All of it is optional. ``note`` says where gates came from, if that is odd."""

    calibration: Calibration | None = None
    state: StateScale | None = None
    vtw: VtwRule | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, card: GateCard | None) -> Offers:
        """Read a card's fields. Raises ModelError."""
        if card is None:
            return cls()
        try:
            offers = cls(
                Calibration.of(card.calibration) if card.calibration else None,
                _scale(card.state) if card.state else None,
                VtwRule.of(card.vtw) if card.vtw else None,
                card.presets,
            )
            for preset in card.presets.values():
                preset_options(preset, offers.calibration, conversation=False)
        except (DyvteError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"gates: the card cannot be read ({error})") from error
        return offers

    def calibrated(self, policy: str) -> bool:
        """True if the risk of ``policy`` was measured."""
        return self.calibration is not None and bool(self.calibration.curves.get(policy))


def _scale(value: Mapping[str, Any]) -> StateScale:
    """Lists come back from JSON where the scale holds tuples."""
    lists = {name: tuple(value[name]) for name in ("layers", "weight", "bias")}
    return StateScale(**{**value, **lists})
