"""Which exit options hold for a request: its own, its headers', its alias's, the server's.

The first that is present counts whole; nothing is merged key by key. Then the operator's caps.
``report`` only says what to tell, so that it does not make the body object count as present.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from dyvte.engine.events import Engine, ModelInfo
from dyvte.errors import OptionError
from dyvte.params import ExitOptions, PruneOptions
from server.api.errors import bad_request, model_not_found, option_error
from server.api.schema import DyvteObject, SamplingFields
from server.settings import Settings

PREFIX = "x-dyvte-"
HEADERS = {
    "x-dyvte-policy": "policy",
    "x-dyvte-aggressiveness": "aggressiveness",
    "x-dyvte-max-risk": "max_risk",
}


class Headers(Protocol):
    """What is read of a request's headers (names in lower case)."""

    def items(self) -> list[tuple[str, str]]:
        """All headers in order, repeated ones included."""


def aliases(name: str, info: ModelInfo, conversation: bool = False) -> dict[str, ExitOptions]:
    """``NAME:off`` and one per preset of the model, with their options."""
    presets = _presets(info, conversation)
    return {f"{name}:{preset}": options for preset, options in presets.items()}


def _presets(info: ModelInfo, conversation: bool) -> dict[str, ExitOptions]:
    own = info.conversation_presets if conversation else {}
    return {"off": ExitOptions(policy="off"), **info.presets, **own}


def check_model(model: str, info: ModelInfo, settings: Settings) -> None:
    """Raise ApiError (404) unless ``model`` is the base name or an alias of it."""
    known = aliases(settings.name, info)
    if model != settings.name and model not in known:
        raise model_not_found(model, (settings.name, *known))


def server_default(info: ModelInfo, settings: Settings, conversation: bool = False) -> ExitOptions:
    """What holds where a request says nothing. Raises OptionError for an unknown preset."""
    chosen = settings.default_exits
    if chosen is None:
        return (info.conversation_default if conversation else None) or info.default_exits
    if not isinstance(chosen, str):
        return ExitOptions.of(chosen)
    presets = _presets(info, conversation)
    if chosen not in presets:
        known = ", ".join(presets)
        raise OptionError("default_exits", f"this model has no preset '{chosen}'; it has {known}")
    return presets[chosen]


def promised_risk(info: ModelInfo, settings: Settings) -> float | None:
    """The share of changed answers that the server's default promises at most for single turns.

    None where it promises none.
    """
    chosen = settings.default_exits
    if isinstance(chosen, Mapping):
        return ExitOptions.of(chosen).max_risk
    if chosen is None and not info.calibrated:
        return None
    record = info.records.get(chosen or "balanced")
    return record.max_risk if record else None


def capped(exits: ExitOptions, settings: Settings) -> ExitOptions:
    """``exits`` within the operator's caps. Raises OptionError where nothing is left."""
    floor, ceiling = settings.min_exit_layer, settings.max_aggressiveness
    if exits.prune is not None and floor is not None:
        _check_prune(PruneOptions.of(exits.prune), floor)
    if exits.policy == "off":
        return exits
    if exits.policy == "fixed":
        layer = max(exits.exit_layer or 0, floor or 0)
        return dataclasses.replace(exits, exit_layer=layer)
    if ceiling is not None and exits.policy != "vtw":
        asked = 0.5 if exits.aggressiveness is None else exits.aggressiveness
        exits = dataclasses.replace(exits, aggressiveness=ceiling if asked > ceiling else asked)
    if floor is not None:
        if exits.max_layer is not None and exits.max_layer < floor:
            raise OptionError("max_layer", f"images leave after layer {floor} at the earliest here")
        exits = dataclasses.replace(exits, min_layer=max(exits.min_layer or 0, floor))
    return exits


def _check_prune(prune: PruneOptions, floor: int) -> None:
    """A pruning method takes tokens out as an exit does; its own defaults are not known here."""
    layers: list[int | None] = [at for at, _ in prune.stages or ()] or [prune.layer]
    if any(layer is None or layer <= floor for layer in layers):
        field = "prune.stages" if prune.stages else "prune.layer"
        raise OptionError(
            field,
            f"visual tokens leave after layer {floor} at the earliest here: name a layer from "
            f"{floor + 1} on",
        )


def in_force(
    exits: ExitOptions, engine: Engine, settings: Settings, conversation: bool = False
) -> ExitOptions:
    """What ``exits`` means on this model under the operator's caps. Raises OptionError."""
    return capped(engine.resolve(exits, conversation), settings)


def choose_exits(
    request: SamplingFields, headers: Headers, engine: Engine, settings: Settings
) -> ExitOptions:
    """The options in force for this request. Raises ApiError (400)."""
    info = engine.info
    conversation = request.user_turns > 1
    where = ""
    try:
        named = _from_headers(headers)
        said = _from_body(request.dyvte)
        if said:
            exits = ExitOptions.of(_with_policy(said, info))
        elif named:
            where = "X-DyVTE headers: "
            exits = ExitOptions.of(_with_policy(named, info))
        else:
            alias = aliases(settings.name, info, conversation).get(request.model)
            exits = alias or server_default(info, settings, conversation)
        return in_force(exits, engine, settings, conversation)
    except OptionError as error:
        raise option_error(error, where) from error


def _from_body(dyvte: DyvteObject | None) -> dict[str, Any]:
    return dyvte.model_dump(exclude_none=True, exclude={"report"}) if dyvte else {}


def _from_headers(headers: Headers) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for header, value in headers.items():
        name = header.lower()
        if not name.startswith(PREFIX):
            continue
        field = HEADERS.get(name)
        if field is None or field in said:
            known = "given twice" if field else f"not known; known are {', '.join(HEADERS)}"
            raise bad_request(f"The header '{header[:60]}' is {known}.", param=header[:60])
        said[field] = value.strip() if field == "policy" else _number(field, value)
    return said


def _number(field: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise OptionError(field, f"must be a number, not '{value[:40]}'") from None


def _with_policy(said: Mapping[str, Any], info: ModelInfo) -> Mapping[str, Any]:
    """``said`` with the policy that it leaves open: "gate" where the model has gates.

    Elsewhere pruning alone goes with "off", and what only a deciding policy understands goes to
    the server's default if that one decides, else to "state" where it was calibrated, else to
    "gate", so that the answer is the reason ("this model has no gates") and not a remark about a
    policy that nobody named.
    """
    if "policy" in said:
        return said
    policy = info.default_exits.policy
    if info.has_gates:
        policy = "gate"
    elif set(said) == {"prune"}:
        policy = "off"
    elif policy in ("off", "fixed"):
        policy = "state" if "state" in info.policies else "gate"
    return {"policy": policy, **said}
