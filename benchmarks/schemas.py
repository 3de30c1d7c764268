"""Random JSON schemas of the shapes that the JSON Schema Test Suite goes through, small enough that
an answer of a few hundred bytes meets them: types, enum, const, ranges, lengths, patterns, formats,
arrays, tuples, required and optional properties, anyOf, references.
"""

from __future__ import annotations

import random
import string
from typing import Any

Schema = dict[str, Any]
WORDS = ("name", "Age", "color", "size_cm", "été", "a b", 'q"t', "$id_", "tags", "0")


def random_schema(seed: int) -> Schema:
    """An object's schema; the same for the same seed."""
    draw = random.Random(seed)
    defs = {"leaf": _scalar(draw), "pair": _object(draw, 1)}
    schema = _object(draw, 3)
    return {**schema, "$defs": defs}


def _any(draw: random.Random, depth: int) -> Schema:
    makers = [_scalar] * 4
    if depth > 0:
        deep = draw.choice((_object, _array, _tuple, _either))
        if draw.random() < 0.5:
            return deep(draw, depth - 1)
        if draw.random() < 0.2:
            return {"$ref": draw.choice(("#/$defs/leaf", "#/$defs/pair"))}
    return draw.choice(makers)(draw)


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(WORDS, draw.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _any(draw, depth) for name in names},
        "required": [name for name in names if draw.random() < 0.7],
        "additionalProperties": False,
    }


def _array(draw: random.Random, depth: int) -> Schema:
    low = draw.randint(0, 2)
    return {
        "type": "array",
        "items": _any(draw, depth),
        "minItems": low,
        "maxItems": low + draw.randint(0, 2),
    }


def _tuple(draw: random.Random, depth: int) -> Schema:
    parts = [_any(draw, depth) for _ in range(draw.randint(1, 3))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def _either(draw: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(draw, depth) for _ in range(draw.randint(2, 3))]}


def _scalar(draw: random.Random) -> Schema:
    kind = draw.choice((_string, _integer, _number, _values, _plain))
    return kind(draw)


def _string(draw: random.Random) -> Schema:
    low = draw.randint(0, 3)
    return draw.choice(
        (
            {"type": "string", "minLength": low, "maxLength": low + draw.randint(0, 8)},
            {"type": "string", "pattern": f"^[a-z]{{1,{low + 1}}}-[0-9]{{{low}}}$"},
            {"type": "string", "format": draw.choice(("date", "time", "uuid", "ipv4"))},
        )
    )


def _integer(draw: random.Random) -> Schema:
    low = draw.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 5000)}


def _number(draw: random.Random) -> Schema:
    return {"type": "integer", "exclusiveMinimum": 0, "maximum": 10 ** draw.randint(1, 4)}


def _values(draw: random.Random) -> Schema:
    letters = string.ascii_letters + 'é"\\ '
    words = ["".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(4)]
    return draw.choice(({"enum": [*dict.fromkeys(words), None, 3]}, {"const": words[0]}))


def _plain(draw: random.Random) -> Schema:
    return draw.choice(({"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}))
