"""Questions about a scene: which make sense for it, and what is true of it.

Owns the kinds of question about one object, many objects or the whole picture, and their mix.
Wordings come from `wording`; pixels and tokens are none of its business.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dyvte.demo import wording as say
from dyvte.demo.knowledge import chat
from dyvte.demo.question import Piece, Question, fill, short, spot
from dyvte.demo.references import Query, missing, named, owner_of, refer
from dyvte.demo.relations import neighbor, relation
from dyvte.demo.render import PRINT_ID
from dyvte.demo.shapes import SHAPES
from dyvte.demo.world import Scene, Thing

REGIONS = (
    *("top left", "top", "top right", "left", "center", "right"),
    *("bottom left", "bottom", "bottom right"),
)


def _attribute(
    kind: str, templates: tuple[str, ...], scene: Scene, rng: random.Random
) -> Question | None:
    if not scene.things or rng.random() < 0.06:
        query = missing(scene, rng, kind)
        if query is None:
            return None
        return short(kind, fill(templates, rng, r=query.words(rng)), "none")
    thing = rng.choice(scene.things)
    query = refer(scene, thing, kind, rng)
    if query is None:
        return None
    words, owner = query.words(rng), owner_of(scene, thing)
    text = fill(templates, rng, r=words)
    return short(kind, text, str(getattr(thing, kind)), (owner,), spot(text, words, owner))


def _color(scene: Scene, rng: random.Random) -> Question | None:
    return _attribute("color", say.COLOR, scene, rng)


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    return _attribute("shape", say.SHAPE, scene, rng)


def _size(scene: Scene, rng: random.Random) -> Question | None:
    return _attribute("size", say.SIZE, scene, rng)


def _count(scene: Scene, rng: random.Random) -> Question | None:
    query: Query | None = Query()
    roll = rng.random()
    if roll > 0.3 and scene.things:
        ways = [
            way
            for t in scene.things
            for way in (Query(shape=t.shape), Query(color=t.color), Query(t.shape, t.color))
        ]
        # Names that occur more often weigh more: high counts would else be rare.
        weights = [len(way.found(scene)) ** 1.5 for way in ways]
        query = rng.choices(ways, weights)[0]
    if roll > 0.87:
        query = missing(scene, rng, "")
    if query is None:
        return None
    found = query.found(scene)
    text = fill(say.COUNT, rng, r=query.words(rng, plural=True))
    return short("count", text, str(len(found)), (owner_of(scene, t) for t in found))


def _presence(scene: Scene, rng: random.Random) -> Question | None:
    query: Query | None
    if scene.things and rng.random() < 0.5:
        thing = rng.choice(scene.things)
        query = rng.choice(
            (
                *(Query(shape=thing.shape), Query(color=thing.color)),
                *(Query(thing.shape, thing.color), Query(thing.shape, thing.color)),
            )
        )
    else:
        query = missing(scene, rng, "")
    if query is None:
        return None
    state = rng.getstate()
    one = query.words(rng)
    rng.setstate(state)
    many = query.words(rng, plural=True)
    text = fill(say.PRESENCE, rng, r=one, rs=many)
    if one[0] in "aeio":
        text = text.replace(f" a {one}", f" an {one}")
    found = query.found(scene)
    return short("presence", text, "yes" if found else "no", (owner_of(scene, t) for t in found))


def _position(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.things or rng.random() < 0.05:
        query = missing(scene, rng, "")
        text = query and fill(say.POSITION, rng, r=query.words(rng))
        return short("position", text, "none") if text else None
    thing = rng.choice(scene.things)
    query = refer(scene, thing, "region", rng)
    if query is None:
        return None
    words, owner = query.words(rng), owner_of(scene, thing)
    text = fill(say.POSITION, rng, r=words)
    return short("position", text, thing.region, (owner,), spot(text, words, owner))


def _at(scene: Scene, rng: random.Random) -> Question | None:
    where = rng.choice(REGIONS)
    if scene.things and rng.random() < 0.75:
        where = rng.choice(scene.things).region
    found = Query(region=where).found(scene)
    if len(found) > 1 or (scene.printed and not found):
        return None
    answer = named(found[0]) if found else "nothing"
    return short("at", fill(say.AT, rng, w=where), answer, (owner_of(scene, t) for t in found))


def _text(scene: Scene, rng: random.Random) -> Question | None:
    item = scene.printed
    if item is None or rng.random() < 0.15:
        roll, owners = rng.random(), () if item is None else (PRINT_ID,)
        if roll < 0.6:
            return short("text", fill(say.HAS_TEXT, rng), "yes" if item else "no", owners)
        return (
            None if item else short("text", fill(rng.choice((say.WORD, say.NUMBER)), rng), "none")
        )
    if rng.random() < 0.2:
        noun = "number" if item.is_number else "word"
        return short("color", fill(say.COLOR, rng, r=noun), item.color, (PRINT_ID,))
    templates = say.NUMBER if item.is_number else say.WORD
    return short("text", fill(templates, rng), item.text, (PRINT_ID,))


def _background(scene: Scene, rng: random.Random) -> Question | None:
    ground = scene.background
    if ground.color is not None and rng.random() < 0.5:
        return short("background", fill(say.BACKGROUND, rng), ground.color)
    if ground.tone is not None:
        return short("background", fill(say.TONE, rng), ground.tone)
    return None


def _reading_order(thing: Thing) -> tuple[int, int, float]:
    row, column = divmod(REGIONS.index(thing.region), 3)
    return row, column, thing.x


def _describe(scene: Scene, rng: random.Random) -> Question:
    pieces: list[Piece] = []
    for thing in sorted(scene.things, key=_reading_order):
        words = f"a {thing.size} {thing.color} {thing.shape} at the {thing.region}"
        pieces += [Piece(words, (owner_of(scene, thing),)), Piece(",")]
    if scene.printed is not None:
        noun = "number" if scene.printed.is_number else "word"
        pieces += [Piece(f"the {noun} {scene.printed.text}", (PRINT_ID,)), Piece(",")]
    if pieces:
        pieces[-1] = Piece(".")
    else:
        pieces = [Piece("an empty picture"), Piece(".")]
    return Question("describe", fill(say.DESCRIBE, rng), tuple(pieces))


def _knowledge(scene: Scene, rng: random.Random) -> Question:
    del scene
    text, answer = chat(rng, with_picture=True)
    return Question("knowledge", text, (Piece(answer),))


KINDS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "color": _color,
    "shape": _shape,
    "size": _size,
    "count": _count,
    "presence": _presence,
    "position": _position,
    "at": _at,
    "relation": relation,
    "neighbor": neighbor,
    "text": _text,
    "background": _background,
    "describe": _describe,
    "knowledge": _knowledge,
}
MIX = {
    **{"color": 4.0, "shape": 4.0, "size": 1.5, "count": 3.0, "presence": 4.0, "position": 3.0},
    **{"at": 1.5, "relation": 2.0, "neighbor": 1.0, "text": 1.0, "background": 0.8},
    **{"describe": 0.8, "knowledge": 0.5},
}


def ask(scene: Scene, rng: random.Random, mix: dict[str, float] | None = None) -> Question:
    """One question that makes sense for `scene`; kinds are drawn by the weights of `mix`."""
    weights = mix or MIX
    names, shares = tuple(weights), tuple(weights.values())
    for _ in range(50):
        question = KINDS[rng.choices(names, shares)[0]](scene, rng)
        if question is not None:
            return question
    return _describe(scene, rng)


def ask_kind(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """A question of this kind, or None where the scene allows none in a few tries."""
    tries = (KINDS[kind](scene, rng) for _ in range(6))
    return next((question for question in tries if question is not None), None)


def without_picture(rng: random.Random) -> Question:
    """A question to be asked in a prompt that has no picture at all."""
    if rng.random() < 0.25:
        text = fill(say.COLOR, rng, r=Query(shape=rng.choice(SHAPES)).words(rng))
        return Question("blind", text, (Piece("please send a picture."),), (), False)
    text, answer = chat(rng, with_picture=False)
    return Question("blind", text, (Piece(answer),), (), False)
