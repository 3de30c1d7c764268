"""The grammar of `--policies`: from words to the settings that one sweep compares.

    SPEC    = EXIT | PRUNE | EXIT "+" PRUNE
    EXIT    = NAME [":" VALUE {"," VALUE}] ["@" [MIN] "-" [MAX]]
    VALUE   = aggressiveness | "risk=" share | preset        (gate, state and other policies)
            | layer | layer "-" layer | preset               (fixed)
    PRUNE   = METHOD [":" CUT {"," CUT}]
    CUT     = LAYER "/" RATIO | RATIO | LAYER "=" SHARE {"/" LAYER "=" SHARE}

RATIO is the share of visual tokens that leaves, SHARE the one that stays, as in `PruneOptions`.
Several values are several settings on one line of the plot; with "+" every exit meets every cut.
Knows names and numbers; what a model can grant is asked of `dyvte.exits.resolve` by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dyvte.errors import OptionError
from dyvte.params import ExitOptions, PruneOptions

FIELD = "policies"
_STAGE = re.compile(r"(\d+)=([0-9.]+)")
_CUT = re.compile(r"(?:(\d+)/)?([0-9.]+)")
_LAYERS = re.compile(r"(\d+)(?:-(\d+))?")
_RANGE = re.compile(r"(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset of a model stands for: options for single turns and for conversations.

    Where nothing was proved of it, that is no exit.
    """

    single: ExitOptions
    conversation: ExitOptions


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of a sweep. ``name`` is its own spec, ``series`` the line of the plot it is on.

    ``options`` are those for single turns, ``chat`` those for conversations where they differ.
    """

    name: str
    series: str
    options: ExitOptions
    chat: ExitOptions | None = None

    def of(self, conversation: bool) -> ExitOptions:
        """The options for one sample."""
        return self.chat if conversation and self.chat is not None else self.options


Pair = tuple[ExitOptions, ExitOptions | None]
OFF = Setting("off", "off", ExitOptions(policy="off"))


def parse_all(
    specs: Sequence[str], methods: Collection[str], presets: Mapping[str, Preset]
) -> list[Setting]:
    """All settings of some specs, ``off`` first, each once. Raises OptionError.

    ``methods`` are the names of pruning methods, ``presets`` what the model's gates carry.
    """
    found = {OFF.name: OFF}
    for spec in specs:
        for setting in parse(spec, methods, presets):
            # By name: a preset keeps its line where a number happens to say the same.
            found.setdefault(setting.name, setting)
    return list(found.values())


def parse(spec: str, methods: Collection[str], presets: Mapping[str, Preset]) -> list[Setting]:
    """The settings of one spec, in the order of its values. Raises OptionError."""
    first, plus, second = spec.partition("+")
    if _name(first) in methods:
        if plus:
            raise OptionError(FIELD, f"{spec!r}: write the exit first, as in gate:0.5+{first}")
        return [
            Setting(name, _name(first), ExitOptions(policy="off", prune=prune))
            for name, prune in _prunes(spec, first)
        ]
    exits = _exits(spec, first, presets)
    if not plus:
        return [Setting(name, _name(first), *pair) for name, pair in exits]
    if _name(second) not in methods:
        known = ", ".join(methods) or "none here"
        raise OptionError(FIELD, f"{spec!r}: {_name(second)!r} is no pruning method ({known})")
    return [
        Setting(f"{left}+{right}", f"{_name(first)}+{right}", *_changed(spec, pair, prune=prune))
        for right, prune in _prunes(spec, second)
        for left, pair in exits
    ]


def _name(term: str) -> str:
    return re.split("[:@]", term)[0]


def _exits(spec: str, term: str, presets: Mapping[str, Preset]) -> list[tuple[str, Pair]]:
    body, at, layers = term.partition("@")
    name, colon, text = body.partition(":")
    if not name or (colon and not text):
        raise OptionError(FIELD, f"{spec!r} is not POLICY[:VALUE,…][@MIN-MAX][+METHOD[:CUT,…]]")
    within = _within(spec, layers) if at else {}
    values = _layers(spec, text) if name == "fixed" else text.split(",")
    found = []
    for value in values:
        pair = _changed(spec, _exit(spec, name, value, presets), **within)
        shown = f"{name}:{value}" if value else name
        found.append((f"{shown}@{layers}" if at else shown, pair))
    return found


def _exit(spec: str, name: str, value: str, presets: Mapping[str, Preset]) -> Pair:
    """One policy with one value."""
    try:
        if name == "fixed":
            return ExitOptions(policy=name, exit_layer=int(value)), None
        if not value:
            return ExitOptions(policy=name), None
        if value.startswith("risk="):
            return ExitOptions(policy=name, max_risk=float(value.removeprefix("risk="))), None
        return ExitOptions(policy=name, aggressiveness=float(value)), None
    except OptionError as error:
        raise _refused(spec, error) from None
    except ValueError:
        return _preset(spec, name, value, presets)


def _preset(spec: str, name: str, value: str, presets: Mapping[str, Preset]) -> Pair:
    if value not in presets:
        known = ", ".join(presets) or "this model has none: run dyvte calibrate"
        raise OptionError(
            FIELD, f"{spec!r}: {value!r} is neither a number, nor risk=R, nor a preset ({known})"
        )
    single, chat = presets[value].single, presets[value].conversation
    for options in (single, chat):
        if options.policy not in (name, "off"):
            raise OptionError(
                FIELD, f"{spec!r}: preset {value!r} is one of {options.policy!r}, not {name!r}"
            )
    return single, None if chat == single else chat


def _layers(spec: str, text: str) -> list[str]:
    """``"3,5-7"`` → 3, 5, 6, 7; the name of a preset stays as it is."""
    numbers: list[str] = []
    for part in text.split(","):
        match = _LAYERS.fullmatch(part)
        if match is None and part.isalpha():
            numbers.append(part)
            continue
        if match is None:
            raise OptionError(FIELD, f"{spec!r}: {part!r} is not a layer or LAYER-LAYER")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise OptionError(FIELD, f"{spec!r}: {part!r} ends before it begins")
        numbers += [str(layer) for layer in range(low, high + 1)]
    return numbers


def _within(spec: str, text: str) -> dict[str, int | None]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise OptionError(FIELD, f"{spec!r}: {text!r} is not MIN-MAX (either may be left out)")
    low, high = (int(side) if side else None for side in match.groups())
    return {"min_layer": low, "max_layer": high}


def _prunes(spec: str, term: str) -> list[tuple[str, PruneOptions]]:
    name, colon, text = term.partition(":")
    if not colon:
        return [(name, PruneOptions(name))]
    return [(f"{name}:{cut}", _prune(spec, name, cut)) for cut in text.split(",")]


def _prune(spec: str, method: str, cut: str) -> PruneOptions:
    """One method with one cut."""
    stages = [_STAGE.fullmatch(stage) for stage in cut.split("/")]
    match = _CUT.fullmatch(cut)
    try:
        if all(stages):
            pairs = tuple((int(m[1]), float(m[2])) for m in stages if m)
            return PruneOptions(method, stages=pairs)
        if match is not None:
            layer = None if match[1] is None else int(match[1])
            return PruneOptions(method, layer=layer, ratio=float(match[2]))
    except OptionError as error:
        raise _refused(spec, error) from None
    except ValueError:
        pass  # 0.5.5
    raise OptionError(
        FIELD, f"{spec!r}: {cut!r} is not LAYER/RATIO, RATIO or LAYER=SHARE/LAYER=SHARE…"
    )


def _changed(spec: str, pair: Pair, **changes: Any) -> Pair:
    try:
        single, chat = (None if each is None else replace(each, **changes) for each in pair)
    except OptionError as error:
        raise _refused(spec, error) from None
    assert single is not None, "only the second may be None"
    return single, chat


def _refused(spec: str, error: OptionError) -> OptionError:
    return OptionError(FIELD, f"{spec!r}: {error.field} {error.message}")
