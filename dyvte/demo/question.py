"""One question with its answer, and where one must look to give it.

An answer is a sequence of pieces, each with the owners (ids of `render.patch_owners`) that it
speaks of: 0 never occurs, i + 1 is thing i, `PRINT_ID` the printed text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from dyvte.demo import wording as say


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer and the objects it speaks of. Starts with no space."""

    text: str
    owners: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a question's text, just after the words that refer to an object."""

    end: int
    owner: int


@dataclass(frozen=True, slots=True)
class Question:
    """One question: `looks_at` are the objects that decide the answer.

    `spots` tell where the text speaks of which object, as far as synonyms left it findable.
    """

    kind: str
    text: str
    pieces: tuple[Piece, ...]
    looks_at: tuple[int, ...] = ()
    needs_picture: bool = True
    spots: tuple[Spot, ...] = ()

    @property
    def answer(self) -> str:
        return "".join(p.text if p.text[0] in ",." else f" {p.text}" for p in self.pieces).strip()


def short(
    kind: str,
    text: str,
    answer: str,
    owners: Iterable[int] = (),
    spots: tuple[Spot, ...] = (),
) -> Question:
    """A question whose answer is one piece about all the objects that it looks at."""
    looks_at = tuple(owners)
    return Question(kind, text, (Piece(answer, looks_at),), looks_at, spots=spots)


def spot(text: str, words: str, owner: int, last: bool = False) -> tuple[Spot, ...]:
    """Where `words` end in `text`: at their first or last place, or nowhere (a synonym)."""
    start = text.rfind(words) if last else text.find(words)
    return () if start < 0 else (Spot(start + len(words), owner),)


def fill(templates: tuple[str, ...], rng: random.Random, **fields: str) -> str:
    """One of the templates, filled and phrased as a person may type it."""
    return say.phrase(rng.choice(templates).format(**fields), rng)
