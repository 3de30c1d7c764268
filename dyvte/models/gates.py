"""Which gates a loaded model gets, and what their card may promise of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dyvte.errors import ModelError
from dyvte.exits.files import GateCard, read_gates
from dyvte.exits.gate import GateBank
from dyvte.exits.offers import Offers
from dyvte.models.adapter import ModelAdapter
from dyvte.models.parts import origin_of


@dataclass(frozen=True, slots=True)
class GateChoice:
    """Gates (or none), the card they came with, and what requests may ask of both."""

    bank: GateBank | None
    card: GateCard | None = None
    offers: Offers = field(default_factory=Offers)


def choose_gates(
    adapter: ModelAdapter, name: str, folder: Path, gates: str | Path | None, foreign: bool
) -> GateChoice:
    """Those named, else those in the model's folder, else those inside its weights.

    Gates whose card says that they are another model's are refused where they were asked for and
    left out where they only lie in the folder, unless ``foreign``: then they decide, and nothing
    that was measured of them counts. A card that names no model is believed. Raises ModelError.
    """
    beside = folder / "gates"
    path = Path(gates) if gates is not None else beside if beside.is_dir() else None
    if path is None:
        return GateChoice(adapter.gates)
    bank, card = read_gates(path, adapter.gates)
    for each in (card, bank):
        if each is not None:
            each.check(adapter.decoder.hidden_size, adapter.decoder.num_layers)
    another = _another_model(card, adapter, name)
    if another is None:
        return GateChoice(bank, card, Offers.of(card))
    if foreign:
        note = f"the gates were {another}, and what was measured of them there holds there only"
        return GateChoice(bank, card, Offers(note=note))
    remedy = "make some for this one with dyvte collect and dyvte train, or set --foreign-gates"
    if gates is not None:
        raise ModelError(
            f"gates: those in {path} were {another} ({remedy}; in Python: foreign_gates=True)"
        )
    note = f"the gates in the model's folder were {another}, so they are left out ({remedy})"
    return GateChoice(adapter.gates, None, Offers(note=note))


def _another_model(card: GateCard | None, adapter: ModelAdapter, name: str) -> str | None:
    """Which model the card is about and which this is, unless they are the same or unknown."""
    if card is None or card.model is None:
        return None
    this = origin_of(adapter, name)
    if this is None or card.model.same_model(this):
        return None
    return f"made for {card.model}, and this model is {this}"
