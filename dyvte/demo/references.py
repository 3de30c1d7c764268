"""References to objects: "the red circle", "the object at the top left".

Owns which attributes single out an object of a scene, and references that fit nothing there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dyvte.demo import wording as say
from dyvte.demo.palette import COLORS
from dyvte.demo.shapes import SHAPES
from dyvte.demo.world import Scene, Thing


def owner_of(scene: Scene, thing: Thing) -> int:
    """The id under which `render.patch_owners` lists this object."""
    return scene.things.index(thing) + 1


def named(thing: Thing) -> str:
    """'a red circle', 'an orange star'."""
    return f"{'an' if thing.color == 'orange' else 'a'} {thing.color} {thing.shape}"


@dataclass(frozen=True, slots=True)
class Query:
    """Attributes that a reference mentions; None matches everything."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    region: str | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            self.shape in (None, thing.shape)
            and self.color in (None, thing.color)
            and self.size in (None, thing.size)
            and self.region in (None, thing.region)
        )

    def found(self, scene: Scene) -> list[Thing]:
        return [thing for thing in scene.things if self.matches(thing)]

    def words(self, rng: random.Random, plural: bool = False) -> str:
        noun = self.shape or rng.choice(say.NOUNS)
        if plural:
            noun = {"cross": "crosses"}.get(noun, f"{noun}s")
        front = " ".join(w for w in (self.size, self.color, noun) if w)
        if self.region is None:
            return front
        return f"{front} {rng.choice(('at', 'at', 'in', 'on'))} the {self.region}"


def _references(thing: Thing, avoid: str) -> list[Query]:
    """Ways to refer to `thing` without mentioning the attribute `avoid`, plain ones first."""
    ways = {
        "shape": Query(shape=thing.shape),
        "color": Query(color=thing.color),
        "both": Query(shape=thing.shape, color=thing.color),
        "size shape": Query(shape=thing.shape, size=thing.size),
        "size color": Query(color=thing.color, size=thing.size),
        "size": Query(size=thing.size),
        "region": Query(region=thing.region),
        "region shape": Query(region=thing.region, shape=thing.shape),
        "only": Query(),
    }
    return [q for q in ways.values() if avoid == "" or getattr(q, avoid) is None]


def refer(
    scene: Scene, thing: Thing, avoid: str, rng: random.Random, places: bool = True
) -> Query | None:
    """A reference that fits `thing` alone, or None."""
    ways = [
        q
        for q in _references(thing, avoid)
        if len(q.found(scene)) == 1 and (places or q.region is None)
    ]
    if not ways:
        return None
    weights = [6 if q.size is None and q.region is None else 1 for q in ways]
    return rng.choices(ways, weights)[0]


def missing(scene: Scene, rng: random.Random, avoid: str) -> Query | None:
    """A reference that fits nothing here; near misses (one attribute right) are common."""
    for _ in range(8):
        shape, color = rng.choice(SHAPES), rng.choice(COLORS)
        if scene.things and rng.random() < 0.7:
            near = rng.choice(scene.things)
            other = rng.choice(scene.things)
            shape, color = rng.choice(
                ((near.shape, color), (shape, near.color), (near.shape, other.color))
            )
        roll = rng.random()
        query = Query(shape, color)
        if avoid == "color" or (avoid != "shape" and roll < 0.35):
            query = Query(shape=shape)
        elif avoid == "shape" or roll < 0.55:
            query = Query(color=color)
        if not query.found(scene):
            return query
    return None
