"""Training batches: many questions that share one picture.

A picture's prompt prefix is stored once; its questions lie in a few lanes of fixed length, and a
row sees the prefix, and the rows before it that belong to the same question. Positions restart
after the prefix for every question, so each is computed as if it stood alone.
Legend: B pictures, G lanes, T rows per lane, P prefix rows.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dyvte.demo.bank import Bank
from dyvte.demo.model import VISUAL_ROWS
from dyvte.demo.naming import labels_of
from dyvte.demo.places import ground_of
from dyvte.demo.question import Question
from dyvte.demo.questions import ask, without_picture
from dyvte.demo.render import frames, ink, masks
from dyvte.demo.sight import Figures
from dyvte.demo.tokenizer import BOS, EOS, IMAGE, PAD, SYSTEMS
from dyvte.demo.world import Scene, sample_scene

LANE = 80
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One text row: its token, the token it must predict, and owners to look at (bit set).

    `pair` are the rows of the question, counted from its first, that name the two objects of a
    comparison (twice the same where there is one); -1 where there are none to look back at.
    `late` are owners that can only be found once the named object is, `names` is the owner that
    the words up to this row name (0: none), `tally` the owners that this row counts (-1: none).
    """

    token: int
    target: int
    look: int
    pair: tuple[int, int] = (-1, -1)
    late: int = 0
    names: int = 0
    tally: int = -1


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of one step and what is where in them."""

    pixels: Tensor  # uint8 [B, H, W, 3]
    labels: Tensor  # int64 [B * V, names]
    figures: Figures
    ground: Tensor  # int64 [B, 2]: colour and tone


@dataclass(frozen=True, slots=True)
class Lanes:
    """Questions about B pictures; `segment` is -1 on unused rows, `blind` rows see no picture."""

    prefix: Tensor  # int64 [P]
    tokens: Tensor  # int64 [B, G, T]
    targets: Tensor  # int64 [B, G, T]
    looks: Tensor  # int64 [B, G, T]
    pairs: Tensor  # int64 [B, G, T, 2]: rows of the lane
    late: Tensor  # int64 [B, G, T]
    names: Tensor  # int64 [B, G, T]
    tallies: Tensor  # int64 [B, G, T]
    segment: Tensor  # int64 [B, G, T]
    positions: Tensor  # int64 [B, G, T]
    blind: Tensor  # bool [B, G, T]
    kinds: list[tuple[int, int, int, str]]  # (picture, lane, segment, kind)


@functools.lru_cache(maxsize=50_000)
def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


# Attention that is all on several objects averages them: an average has no count and no order.
_AVERAGED = frozenset({"count", "relation"})
_TWO_STEPS = "neighbor"
TURNS = "turns"


def _question_looks(tokenizer: PreTrainedTokenizerFast, question: Question) -> list[int]:
    """Per token of the question: the object that the words up to it refer to, as a bit."""
    encoding = tokenizer(f" {question.text}", add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoding["offset_mapping"]]
    looks = [0] * len(ends)
    for spot in question.spots:
        row = next((i for i, end in enumerate(ends) if end >= spot.end + 1), None)
        if row is not None:
            looks[row] |= 1 << spot.owner
    return looks


def turn_rows(tokenizer: PreTrainedTokenizerFast, question: Question) -> list[Row]:
    """Rows of a question and its answer, up to the row that predicts the end."""
    head = [*_encode(tokenizer, f" {question.text}"), *_encode(tokenizer, " assistant:")]
    guided = question.kind not in _AVERAGED and question.kind != _TWO_STEPS
    look = sum(1 << owner for owner in question.looks_at) if guided else 0
    looks = _question_looks(tokenizer, question) if question.spots else [0] * (len(head) - 2)
    # The words of the question are known from its mark on; from there it can be looked up.
    looks = [*looks[:-1], looks[-1] | look, look, look]
    late = [0] * len(looks)
    tokens = list(head)
    for piece in question.pieces:
        text = piece.text if piece.text[0] in ",." else f" {piece.text}"
        ids = _encode(tokenizer, text)
        owners = sum(1 << owner for owner in piece.owners)
        for token in ids:
            looks[-1] |= owners if guided else 0
            late[-1] |= owners if question.kind == _TWO_STEPS else 0
            tokens.append(token)
            looks.append(0)
            late.append(0)
    targets = [*tokens[1:], EOS]
    answer_from = len(head) - 1
    names = _names(looks[: len(head) - 3], question) + [0] * (len(tokens) - len(head) + 3)
    named = [i for i, name in enumerate(names) if name]
    wants = {"relation": 2, _TWO_STEPS: 1}.get(question.kind, -1)
    pair = (named[0], named[-1]) if len(named) == wants else (-1, -1)
    tally = sum(1 << owner for owner in question.looks_at) if question.kind == "count" else -1
    rows = []
    for i, token in enumerate(tokens):
        if i < answer_from:
            rows.append(Row(token, IGNORE, looks[i], names=names[i]))
        else:
            counts = tally if i == answer_from else -1
            rows.append(Row(token, targets[i], looks[i], pair, late[i], tally=counts))
    return rows


def _names(looks: list[int], question: Question) -> list[int]:
    """Per row of the question before its last: the one owner that a spot put there, or 0."""
    owners = {1 << spot.owner: spot.owner for spot in question.spots}
    return [owners.get(look, 0) for look in looks]


def conversation_rows(
    tokenizer: PreTrainedTokenizerFast, questions: tuple[Question, ...]
) -> list[Row]:
    """Rows of turns that follow each other as the chat template writes them."""
    rows: list[Row] = []
    for question in questions:
        if rows:
            between = (EOS, *_encode(tokenizer, "user:"))
            rows += [Row(token, IGNORE, 0) for token in between]
        start = len(rows)
        for row in turn_rows(tokenizer, question):
            a, b = row.pair
            rows.append(replace(row, pair=(a + start, b + start)) if a >= 0 else row)
    return rows


def prompt_prefix(tokenizer: PreTrainedTokenizerFast, system: str = "") -> list[int]:
    """Ids of everything before the question, in a prompt with one picture."""
    head = _encode(tokenizer, f"{system}\nuser:" if system else "user:")
    return [BOS, *head, *([IMAGE] * VISUAL_ROWS)]


class Packer:
    """Lays the questions of several pictures into lanes, first lane that has room first."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, pictures: int, lanes: int, prefix: list[int]
    ) -> None:
        self.tokenizer, self.prefix = tokenizer, prefix
        shape = (pictures, lanes, LANE)
        self.tokens = np.full(shape, PAD, dtype=np.int64)
        self.targets = np.full(shape, IGNORE, dtype=np.int64)
        self.looks = np.zeros(shape, dtype=np.int64)
        self.pairs = np.full((*shape, 2), -1, dtype=np.int64)
        self.late = np.zeros(shape, dtype=np.int64)
        self.names = np.zeros(shape, dtype=np.int64)
        self.tallies = np.full(shape, -1, dtype=np.int64)
        self.positions = np.zeros(shape, dtype=np.int64)
        self.segment = np.full(shape, -1, dtype=np.int64)
        self.blind = np.zeros(shape, dtype=np.bool_)
        self.used = np.zeros((pictures, lanes), dtype=np.int64)
        self.kinds: list[tuple[int, int, int, str]] = []

    def add(self, picture: int, question: Question, *further: Question) -> bool:
        """Whether the question, and the turns that follow it, found room."""
        rows = conversation_rows(self.tokenizer, (question, *further))
        room = np.flatnonzero(self.used[picture] + len(rows) <= LANE)
        if not len(room):
            return False
        lane = int(room[0])
        start = int(self.used[picture, lane])
        self.used[picture, lane] = stop = start + len(rows)
        span = (picture, lane, slice(start, stop))
        number = len(self.kinds)
        self.tokens[span] = [r.token for r in rows]
        self.targets[span] = [r.target for r in rows]
        self.looks[span] = [r.look for r in rows]
        self.pairs[span] = [[p + start if p >= 0 else -1 for p in r.pair] for r in rows]
        self.late[span] = [r.late for r in rows]
        self.names[span] = [r.names for r in rows]
        self.tallies[span] = [r.tally for r in rows]
        self.segment[span], self.blind[span] = number, not question.needs_picture
        first = len(self.prefix) - (0 if question.needs_picture else VISUAL_ROWS)
        self.positions[span] = np.arange(first, first + len(rows))
        self.kinds.append((picture, lane, number, TURNS if further else question.kind))
        return True

    def full(self, picture: int) -> bool:
        return bool(self.used[picture].min() > LANE - 14)

    def lanes(self) -> Lanes:
        return Lanes(
            prefix=torch.tensor(self.prefix),
            tokens=torch.from_numpy(self.tokens),
            targets=torch.from_numpy(self.targets),
            looks=torch.from_numpy(self.looks),
            pairs=torch.from_numpy(self.pairs),
            late=torch.from_numpy(self.late),
            names=torch.from_numpy(self.names),
            tallies=torch.from_numpy(self.tallies),
            segment=torch.from_numpy(self.segment),
            positions=torch.from_numpy(self.positions),
            blind=torch.from_numpy(self.blind),
            kinds=self.kinds,
        )


class Draws:
    """Training batches from a bank. What comes out depends on the bank, `seed` and step alone."""

    def __init__(self, bank: Bank, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.bank, self.tokenizer, self.seed = bank, tokenizer, seed

    def pictures(self, step: int, count: int) -> tuple[list[Scene], Pictures]:
        """The pictures of a step, and their scenes."""
        rng = random.Random(self.seed * 1_000_003 + step)
        rows = sorted(rng.sample(range(len(self.bank)), count))
        scenes = [sample_scene(self.bank.first_seed + row) for row in rows]
        owners = self.bank.owners[rows].reshape(count, VISUAL_ROWS)
        labels = [labels_of(scene)[o] for scene, o in zip(scenes, owners, strict=True)]
        figures = Figures(
            torch.from_numpy(owners.astype(np.int64)),
            torch.from_numpy(np.stack([ink(scene) for scene in scenes]).astype(np.float32)),
            torch.from_numpy(np.stack([frames(s, o) for s, o in zip(scenes, owners, strict=True)])),
            torch.from_numpy(np.stack([masks(scene) for scene in scenes])),
        )
        pixels = torch.from_numpy(self.bank.pictures[rows])
        ground = torch.tensor([ground_of(scene) for scene in scenes])
        names = torch.from_numpy(np.concatenate(labels))
        return scenes, Pictures(pixels, names, figures, ground)

    def questions(
        self,
        step: int,
        scenes: list[Scene],
        lanes: int,
        mix: dict[str, float],
        talks: float = 0.0,
    ) -> Lanes:
        """As many fresh questions about the scenes as the lanes hold.

        A share `talks` of the pictures begins with a conversation of two or three turns.
        """
        rng = random.Random(self.seed * 7_000_003 + step)
        system = rng.choice(SYSTEMS) if rng.random() < 0.12 else ""
        prefix = prompt_prefix(self.tokenizer, system)
        packer = Packer(self.tokenizer, len(scenes), lanes, prefix)
        for picture, scene in enumerate(scenes):
            if rng.random() < talks:
                turns = [ask(scene, rng, mix) for _ in range(rng.choice((2, 2, 3)))]
                packer.add(picture, *turns)
            while not packer.full(picture):
                blind = rng.random() < 0.02
                question = without_picture(rng) if blind else ask(scene, rng, mix)
                if not packer.add(picture, question) and rng.random() < 0.2:
                    break
        return packer.lanes()
