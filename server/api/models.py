"""``/v1/models``: the base name and its aliases, and what exits each of them means.

OpenAI's model object with a ``dyvte`` object beside it: the base model's says what it grants
within the operator's caps, an alias's what it stands for.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from dyvte.engine.events import Engine, PresetRecord
from dyvte.params import ExitOptions
from server.api.exits import aliases, in_force, server_default
from server.settings import Settings


class ExitsCard(TypedDict, total=False):
    """Exit options without what they leave open."""

    policy: str
    aggressiveness: float
    exit_layer: int
    min_layer: int
    max_layer: int
    max_risk: float
    prune: dict[str, Any]


class MeasuredCard(TypedDict):
    """What a preset did on the calibration samples; FLOPs ratios are means over samples."""

    samples: int
    changed: int
    risk_upper_bound: float
    prefill_saved: float
    request_saved: float


class PresetCard(TypedDict):
    """A preset's promise (null: none) and its measurement for either kind of prompt."""

    max_risk: float | None
    confidence: float
    single: MeasuredCard | None
    conversation: MeasuredCard | None


class ModelOffer(TypedDict):
    """What the base model grants, or what an alias stands for."""

    family: NotRequired[str]
    num_layers: NotRequired[int]
    max_model_len: NotRequired[int]
    dtype: NotRequired[str]
    weights: NotRequired[str]
    policies: NotRequired[list[str]]
    prune_methods: NotRequired[list[str]]
    presets: NotRequired[dict[str, ExitsCard]]
    measured: NotRequired[dict[str, PresetCard]]
    default: NotRequired[ExitsCard]
    has_gates: NotRequired[bool]
    calibrated: NotRequired[bool]
    exits_hint: NotRequired[str | None]
    base: NotRequired[str]
    exits: NotRequired[ExitsCard]
    conversation: NotRequired[ExitsCard]
    record: NotRequired[PresetCard]


class ModelCard(TypedDict):
    """One entry of the list."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    dyvte: ModelOffer


class ModelList(TypedDict):
    """The base name first, then its aliases."""

    object: Literal["list"]
    data: list[ModelCard]


def model_cards(engine: Engine, settings: Settings, created: int) -> dict[str, ModelCard]:
    """Cards by name, the base name's first."""
    name = settings.name
    cards = {name: _card(name, created, _offer(engine, settings))}
    for alias, exits in aliases(name, engine.info).items():
        offer = _alias_offer(alias, exits, engine, settings)
        cards[alias] = _card(alias, created, offer)
    return cards


def _alias_offer(alias: str, exits: ExitOptions, engine: Engine, settings: Settings) -> ModelOffer:
    """What an alias stands for; ``conversation`` only where it means something else there."""
    info, preset = engine.info, alias.removeprefix(f"{settings.name}:")
    said = _said(in_force(exits, engine, settings))
    offer: ModelOffer = {"base": settings.name, "exits": said}
    other = aliases(settings.name, info, conversation=True)[alias]
    turns = _said(in_force(other, engine, settings, conversation=True))
    if turns != said:
        offer["conversation"] = turns
    if preset in info.records:
        offer["record"] = _record(info.records[preset])
    return offer


def _record(record: PresetRecord) -> PresetCard:
    return cast(PresetCard, dataclasses.asdict(record))


def _card(name: str, created: int, offer: ModelOffer) -> ModelCard:
    return {"id": name, "object": "model", "created": created, "owned_by": "dyvte", "dyvte": offer}


def _offer(engine: Engine, settings: Settings) -> ModelOffer:
    info = engine.info

    def said(exits: ExitOptions) -> ExitsCard:
        return _said(in_force(exits, engine, settings))

    return {
        "family": info.family,
        "num_layers": info.num_layers,
        "max_model_len": info.max_model_len,
        "dtype": info.dtype,
        "weights": info.weights,
        "policies": list(info.policies),
        "prune_methods": list(info.prune_methods),
        "presets": {name: said(exits) for name, exits in info.presets.items()},
        "measured": {name: _record(record) for name, record in info.records.items()},
        "default": said(server_default(info, settings)),
        "has_gates": info.has_gates,
        "calibrated": info.calibrated,
        "exits_hint": info.exits_hint,
    }


def _said(exits: ExitOptions) -> ExitsCard:
    said: ExitsCard = {}
    for key, value in dataclasses.asdict(exits).items():
        if value is not None:
            said[key] = value  # type: ignore[literal-required]
    return said
