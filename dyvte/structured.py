"""The form that an answer must have: a JSON schema, a regular expression, a choice or a grammar.

Frozen, hashable and checked for size; whether it can be compiled for a model's vocabulary is found
out by ``dyvte.constraints``. Knows no torch and no grammar library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dyvte.errors import OptionError

KINDS = ("json", "regex", "choice", "grammar")
FIELD = "structured_output"

MAX_CHARACTERS = 65_536
MAX_PATTERN = 4_096
MAX_CHOICES = 1_000
MAX_DEPTH = 32
# Compiling is about quadratic in the members of one object: 800 properties take 1 s, 3,000 take 17.
MAX_MEMBERS = 512
MAX_VALUES = 1_000  # of a list: enum, required
ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What the text of an answer must match, from its first character to its last.

    Made by ``json``, ``regex``, ``choice`` or ``grammar``; ``text`` is what that was given, as
    text. Raises OptionError("structured_output") for what is too large or no such thing.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(FIELD, f"{self.kind!r} is not known; use one of {', '.join(KINDS)}")
        limit = MAX_PATTERN if self.kind == "regex" else MAX_CHARACTERS
        if len(self.text) > limit:
            raise OptionError(FIELD, f"has {len(self.text)} characters; at most {limit} are taken")
        if not self.text:
            raise OptionError(FIELD, f"the {self.kind} is empty")

    @classmethod
    def json(cls, schema: Mapping[str, Any] | str | bool = True) -> StructuredOutput:
        """JSON that a schema (draft 2020-12; as object or text) accepts; True: any object."""
        if isinstance(schema, str):
            schema = _parsed(schema)
        if schema is True:
            schema = ANY_OBJECT
        if not isinstance(schema, Mapping):
            raise OptionError(FIELD, "a JSON schema must be an object")
        _check_shape(schema)
        return cls("json", _dumped(schema))

    @classmethod
    def regex(cls, pattern: str) -> StructuredOutput:
        """Text that a regular expression matches whole (Rust's syntax: no look-around)."""
        if not isinstance(pattern, str):
            raise OptionError(FIELD, "a regular expression must be a string")
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Iterable[str]) -> StructuredOutput:
        """Exactly one of some strings."""
        given = [choices] if isinstance(choices, str) else list(choices)
        if not given or not all(isinstance(each, str) and each for each in given):
            raise OptionError(FIELD, "a choice needs non-empty strings, at least one")
        if len(given) > MAX_CHOICES:
            raise OptionError(FIELD, f"{len(given)} choices; at most {MAX_CHOICES} are taken")
        return cls("choice", _dumped(given))

    @classmethod
    def grammar(cls, text: str) -> StructuredOutput:
        """Text that a context-free grammar produces, in llguidance's dialect of Lark."""
        if not isinstance(text, str):
            raise OptionError(FIELD, "a grammar must be a string")
        return cls("grammar", text)


def _parsed(text: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise OptionError(FIELD, f"has {len(text)} characters; at most {MAX_CHARACTERS} are taken")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(FIELD, "the JSON schema is not valid JSON") from error


def _dumped(value: object) -> str:
    """The order of keys is kept: it is the order in which an answer writes them."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(FIELD, "is not JSON") from error


def _check_shape(schema: object) -> None:
    """Bounds that hold before anything is built. Raises OptionError."""
    level: list[object] = [schema]
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _members(value)]
        if not level:
            return
    raise OptionError(FIELD, f"the JSON schema is nested deeper than {MAX_DEPTH} levels")


def _members(value: object) -> list[object]:
    if isinstance(value, Mapping):
        if len(value) > MAX_MEMBERS:
            raise OptionError(
                FIELD, f"an object of the JSON schema has more than {MAX_MEMBERS} members"
            )
        return list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    plain = not any(isinstance(each, (Mapping, list, tuple)) for each in value)
    limit = MAX_VALUES if plain else MAX_MEMBERS
    if len(value) > limit:
        raise OptionError(FIELD, f"a list of the JSON schema has more than {limit} values")
    return list(value)
