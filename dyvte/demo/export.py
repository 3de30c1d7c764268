"""Demo pictures and questions as files: the format in which users bring data of their own.

Writes PNG pictures and a JSONL of OpenAI chat messages with image paths, answers and kinds, which
every command that takes `--data` reads. Splits never share a scene (`dataset.SPLITS`), and within
one the scenes are drawn independently, so that questions are an i.i.d. sample if each picture
carries one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dyvte.demo.dataset import first_seed
from dyvte.demo.question import Question
from dyvte.demo.questions import MIX, ask
from dyvte.demo.render import Camera, render
from dyvte.demo.shift import SHIFTS
from dyvte.demo.world import sample_scene
from dyvte.errors import OptionError

SPLIT_SIZE = 10_000_000


@dataclass(frozen=True, slots=True)
class Export:
    """What to write: ``count`` pictures of ``split`` from number ``skip`` on.

    ``questions`` rows a picture, each a conversation of which the last question is to be answered;
    picture i gets conversations of ``turns[i % len(turns)]`` questions. ``shift`` names a change
    of the pictures (`shift.SHIFTS`) or is None.
    """

    split: str
    count: int
    skip: int = 0
    questions: int = 1
    turns: tuple[int, ...] = (1,)
    shift: str | None = None

    def __post_init__(self) -> None:
        try:
            first_seed(self.split)
        except ValueError as error:
            raise OptionError("split", str(error).partition(": ")[2]) from None
        if self.shift is not None and self.shift not in SHIFTS:
            raise OptionError("shift", f"{self.shift!r} is not one of {', '.join(SHIFTS)}")
        if self.skip + self.count > SPLIT_SIZE:
            raise OptionError("skip", f"a split has {SPLIT_SIZE} pictures; take smaller numbers")


def write(export: Export, out: Path) -> Path:
    """Draw into ``out/images`` and write ``out/<split>.jsonl``; return that file's path.

    Pictures are written before the JSONL, which appears whole or not at all. Raises OSError.
    """
    name = export.split if export.shift is None else f"{export.split}-{export.shift}"
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, picture, conversations in drawn(export):
        stem = f"{name}-{number:07d}"
        picture.save(folder / f"{stem}.png")
        for index, asked in enumerate(conversations):
            row = as_row(f"{stem}-{index}", f"images/{stem}.png", asked)
            lines.append(json.dumps(row, ensure_ascii=False))
    path = out / f"{name}.jsonl"
    draft = path.with_suffix(".part")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return draft.replace(path)


def drawn(export: Export) -> Iterator[tuple[int, Image.Image, list[list[Question]]]]:
    """Number, picture and conversations of each scene, the same on every machine.

    With one question of one turn and no shift, these are `dataset.samples`.
    """
    base = first_seed(export.split)
    for number in range(export.skip, export.skip + export.count):
        seed = base + number
        scene = sample_scene(seed)
        if export.shift is not None:
            scene = SHIFTS[export.shift](scene, random.Random(seed * 17 + 3))
        rng = random.Random(seed * 13 + 5)
        turns = export.turns[number % len(export.turns)]
        conversations = [
            [ask(scene, rng, MIX) for _ in range(turns)] for _ in range(export.questions)
        ]
        yield number, render(scene, Camera.sample(seed), seed), conversations


def as_row(name: str, picture: str, asked: Sequence[Question]) -> dict[str, Any]:
    """One line of the JSONL: earlier turns carry their right answers, the last one is asked."""
    messages: list[dict[str, Any]] = []
    for index, question in enumerate(asked):
        text = {"type": "text", "text": question.text}
        image = {"type": "image_url", "image_url": {"url": picture}}
        messages.append({"role": "user", "content": [text] if index else [image, text]})
        if question is not asked[-1]:
            messages.append({"role": "assistant", "content": question.answer})
    last = asked[-1]
    return {"id": name, "messages": messages, "answer": last.answer, "kind": last.kind}
