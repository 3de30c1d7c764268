"""``/v1/models``: the base name and its aliases, and what exits each of them means.

OpenAI's model object with a ``dyvte`` object beside it: the base model's says what it grants
within the operator's caps, an alias's what it stands for.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from dyvte.engine.events import Engine
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


class ModelOffer(TypedDict):
    """What the base model grants, or what an alias stands for."""

    family: NotRequired[str]
    num_layers: NotRequired[int]
    max_model_len: NotRequired[int]
    policies: NotRequired[list[str]]
    presets: NotRequired[dict[str, ExitsCard]]
    default: NotRequired[ExitsCard]
    has_gates: NotRequired[bool]
    calibrated: NotRequired[bool]
    exits_hint: NotRequired[str | None]
    base: NotRequired[str]
    exits: NotRequired[ExitsCard]


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
        said = _said(in_force(exits, engine, settings))
        cards[alias] = _card(alias, created, {"base": name, "exits": said})
    return cards


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
        "policies": list(info.policies),
        "presets": {name: said(exits) for name, exits in info.presets.items()},
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
