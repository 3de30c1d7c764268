"""The conversation formats of original code bases, whose checkpoints bring no chat template.

A format says what stands around each turn. Turns become text cut at the images; every piece is
tokenised by itself, without a BOS of its own, as the original code does. What a user typed never
becomes a special token, also where it spells one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from dyvte.errors import ModelError, PromptError
from dyvte.models.prompts.chat import parts_of
from dyvte.prompt import IMAGE, Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """What stands before and behind the system message and each turn.

    ``stops`` are the specials that end an answer; ``default_system`` is what the original code
    says where the caller says nothing. An image is ``frame`` around it and a line break.
    """

    name: str
    default_system: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    stops: tuple[str, ...]
    frame: tuple[str, str] = ("", "")


@dataclass(slots=True)
class _Piece:
    """Text between two images; ``typed`` are the (start, stop) that a caller wrote."""

    text: str = ""
    typed: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: str, typed: bool = False) -> None:
        if typed and text:
            self.typed.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def is_typed(self, start: int, stop: int) -> bool:
        return any(start < end and begin < stop for begin, end in self.typed)


@dataclass(frozen=True, slots=True)
class ConversationChat:
    """A format over a tokenizer. Raises ModelError if the tokenizer lacks the image's frame."""

    tokenizer: Any
    format: Conversation

    def __post_init__(self) -> None:
        known = self.tokenizer.get_vocab()
        for token in filter(None, self.format.frame):
            if token not in known:
                raise ModelError(
                    f"the tokenizer has no {token!r}, which {self.format.name} puts around images"
                )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer, as far as the tokenizer knows them as one token."""
        known: dict[str, int] = self.tokenizer.get_vocab()
        return frozenset(known[stop] for stop in self.format.stops if stop in known)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """BOS where the tokenizer sets one, then the pieces with an IMAGE between each two."""
        bos = self.tokenizer.bos_token_id
        ids: list[int] = [i for i in self.tokenizer("")["input_ids"][:1] if i == bos]
        specials = self._specials()
        for index, piece in enumerate(self._pieces(messages)):
            ids += [IMAGE] * (index > 0)
            ids += self._ids(piece, specials)
        return ids

    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        form, turns = self.format, list(messages)
        pieces = [_Piece()]
        given = turns.pop(0) if turns and turns[0].get("role") == "system" else None
        pieces[-1].add(form.system[0])
        if given is None:
            pieces[-1].add(form.default_system)
        else:
            pieces[-1].add(_text(given), typed=True)
        pieces[-1].add(form.system[1])
        for turn in turns:
            parts = parts_of(turn)
            if turn["role"] == "system":
                raise PromptError("a system message must be the first one in this chat format")
            opening, ending = form.user if turn["role"] == "user" else form.assistant
            pieces[-1].add(opening)
            if turn["role"] == "user":
                self._add_parts(pieces, parts)
            else:
                pieces[-1].add(_text(turn), typed=True)
            pieces[-1].add(ending)
        pieces[-1].add(form.generation)
        return pieces

    def _add_parts(self, pieces: list[_Piece], parts: Sequence[Mapping[str, Any]]) -> None:
        for part in _ordered(parts):
            if part["type"] == "image":
                pieces[-1].add(self.format.frame[0])
                pieces.append(_Piece())
                pieces[-1].add(f"{self.format.frame[1]}\n")
            else:
                pieces[-1].add(str(part["text"]), typed=True)

    def _specials(self) -> re.Pattern[str]:
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")

    def _ids(self, piece: _Piece, specials: re.Pattern[str]) -> list[int]:
        """The tokenizer's own ids, unless typed characters spell (part of) a special."""
        starts = re.finditer(f"(?=({specials.pattern}))", piece.text)
        if not any(piece.is_typed(*found.span(1)) for found in starts):
            return self._tokens(piece.text)
        ids: list[int] = []
        at = 0
        own = [m for m in specials.finditer(piece.text) if not piece.is_typed(*m.span())]
        for match in own:
            ids += self._plain(piece.text[at : match.start()], specials)
            ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
            at = match.end()
        return ids + self._plain(piece.text[at:], specials)

    def _plain(self, text: str, specials: re.Pattern[str]) -> list[int]:
        """Ids of the characters. Added tokens that are not marked special need a cut inside."""
        ids = self._tokens(text, split_special_tokens=True)
        if self.tokenizer.added_tokens_decoder.keys().isdisjoint(ids):
            return ids
        cuts = [match.start() + 1 for match in re.finditer(f"(?={specials.pattern})", text)]
        bounds = [0, *cuts, len(text)]
        parts = (text[start:stop] for start, stop in pairwise(bounds))
        return [token for part in parts for token in self._tokens(part)]

    def _tokens(self, text: str, **settings: bool) -> list[int]:
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, **settings)["input_ids"]
        return ids


def _ordered(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Images first, as the original code does unless told a place; woven turns keep their order.

    Woven is a turn with text between images, or with an image between texts.
    """
    kinds = "".join("i" if part["type"] == "image" else "t" for part in parts)
    if "it" in kinds and "ti" in kinds:
        return list(parts)
    return sorted(parts, key=lambda part: part["type"] != "image")


def _text(message: Message) -> str:
    parts = parts_of(message)
    if any(part["type"] == "image" for part in parts):
        raise PromptError(f"{message['role']} messages cannot hold an image")
    return "".join(str(part["text"]) for part in parts)
