"""Questions about two objects: which is left of, above, or bigger than which.

Asks only where the picture leaves no doubt; pairs that are nearly level are passed over.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dyvte.demo import wording as say
from dyvte.demo.question import Question, Spot, fill, short, spot
from dyvte.demo.references import named, owner_of, refer
from dyvte.demo.world import Scene, Thing

CLEAR = 0.12
_SIDES: dict[str, tuple[tuple[str, ...], Callable[[Thing, Thing], float]]] = {
    "left": (("left of", "to the left of", "on the left of"), lambda a, b: b.x - a.x),
    "right": (("right of", "to the right of", "on the right of"), lambda a, b: a.x - b.x),
    "above": (("above", "above", "over", "higher than"), lambda a, b: b.y - a.y),
    "below": (("below", "below", "under", "lower than"), lambda a, b: a.y - b.y),
}


def _pair(scene: Scene, rng: random.Random) -> tuple[Thing, Thing, str, str] | None:
    """Two objects with a plain reference each."""
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    first, second = (refer(scene, t, "size", rng, places=False) for t in (a, b))
    if first is None or second is None:
        return None
    return a, b, first.words(rng), second.words(rng)


def relation(scene: Scene, rng: random.Random) -> Question | None:
    """Is one object left of, above, or bigger than another; or which of the two is bigger."""
    pair = _pair(scene, rng)
    if pair is None:
        return None
    a, b, a_words, b_words = pair
    owners = (owner_of(scene, a), owner_of(scene, b))

    def spots(text: str) -> tuple[Spot, ...]:
        return spot(text, a_words, owners[0]) + spot(text, b_words, owners[1], last=True)

    if rng.random() < 0.2:
        ratio = a.extent / b.extent
        if 1 / 1.35 < ratio < 1.35:
            return None
        if rng.random() < 0.5:
            larger, smaller = ("bigger than", "larger than"), ("smaller than", "tinier than")
            rel, truth = rng.choice(((rng.choice(larger), ratio > 1), (smaller[0], ratio < 1)))
            text = fill(say.RELATION, rng, a=a_words, rel=rel, b=b_words)
            return short("relation", text, "yes" if truth else "no", owners, spots(text))
        text = fill(say.BIGGER, rng, a=a_words, b=b_words)
        return short("relation", text, named(a if ratio > 1 else b), owners, spots(text))
    side = rng.choice(tuple(_SIDES))
    names, distance = _SIDES[side]
    if abs(distance(a, b)) < CLEAR:
        return None
    text = fill(say.RELATION, rng, a=a_words, rel=rng.choice(names), b=b_words)
    return short("relation", text, "yes" if distance(a, b) > 0 else "no", owners, spots(text))


def neighbor(scene: Scene, rng: random.Random) -> Question | None:
    """What is on one side of an object, where at most one other object clearly is."""
    pair = _pair(scene, rng)
    if pair is None:
        return None
    _, b, _, b_words = pair
    names, distance = _SIDES[rng.choice(tuple(_SIDES))]
    gaps = [(distance(t, b), t) for t in scene.things if t is not b]
    if any(0.03 < gap < CLEAR for gap, _ in gaps):
        return None
    beyond = [t for gap, t in gaps if gap >= CLEAR]
    if len(beyond) > 1:
        return None
    answer = named(beyond[0]) if beyond else "nothing"
    text = fill(say.NEIGHBOR, rng, rel=rng.choice(names), b=b_words)
    spots = spot(text, b_words, owner_of(scene, b), last=True)
    return short("neighbor", text, answer, (owner_of(scene, t) for t in beyond), spots)
