"""Rows of LLaVA's instruction data: ``{id, image?, conversations: [{from, value}, …]}``.

``<image>`` in a human value stands for the next picture of ``image`` (a path or a list of them).
Every human turn becomes a sample of its own, with the turns before it as history and the ``gpt``
turn behind it as the given answer: that is what a server is asked in the course of the
conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyvte.data.pictures import Picture, picture_of
from dyvte.data.sample import DataError, Sample
from dyvte.prompt import Message

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def llava_samples(row: Mapping[str, Any], line: int, group: int, folder: Path) -> list[Sample]:
    """The samples of one row. Raises DataError, PictureError."""
    turns = list(_turns(row["conversations"]))
    pictures = _pictures(row, folder)
    asked = sum(text.count(PLACEHOLDER) for role, text in turns if role == "user")
    if asked != len(pictures):
        raise DataError(f"{asked} {PLACEHOLDER} in the turns for {len(pictures)} images")
    users = [index for index, (role, _) in enumerate(turns) if role == "user"]
    if not users:
        raise DataError("there is no human turn")
    supply = iter(pictures)
    messages = [_message(role, text, supply) for role, text in turns]
    name, kind = str(row.get("id", f"row-{group}")), str(row.get("kind", ""))
    samples = []
    for number, index in enumerate(users, start=1):
        answer = turns[index + 1][1].strip() if index + 1 < len(turns) else None
        samples.append(
            Sample(
                id=name if len(users) == 1 else f"{name}/{number}",
                line=line,
                group=group,
                messages=tuple(messages[: index + 1]),
                answer=answer,
                answers=() if answer is None else (answer,),
                kind=kind,
            )
        )
    return samples


def _turns(conversations: Any) -> Iterator[tuple[str, str]]:
    """``(role, text)`` of each turn; after a system turn, user and assistant alternate."""
    if not isinstance(conversations, list):
        raise DataError('"conversations" must be a list')
    expected = "user"
    for index, turn in enumerate(conversations):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        text = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(text, str):
            raise DataError(f'turn {index + 1} needs "from" and a "value" that is text')
        if speaker == "system" and index == 0:
            yield "system", text
            continue
        role = ROLES.get(str(speaker))
        if role != expected:
            raise DataError(f"turn {index + 1} is from {speaker!r} where {expected} is due")
        if role == "assistant" and not text.strip():
            raise DataError(f"turn {index + 1} is an empty answer")
        expected = "assistant" if role == "user" else "user"
        yield role, text


def _pictures(row: Mapping[str, Any], folder: Path) -> list[Picture]:
    named = row.get("image")
    paths: Sequence[Any] = [] if named is None else named if isinstance(named, list) else [named]
    if not all(isinstance(path, str) and path for path in paths):
        raise DataError('"image" must be a path or a list of paths')
    return [picture_of(path, folder) for path in paths]


def _message(role: str, text: str, supply: Iterator[Picture]) -> Message:
    """Text between placeholders loses the blanks around it, as in LLaVA's own code."""
    if role != "user" or PLACEHOLDER not in text:
        return {"role": role, "content": text.strip()}
    parts: list[Mapping[str, Any]] = []
    for index, piece in enumerate(text.split(PLACEHOLDER)):
        if index:
            parts.append({"type": "image", "image": next(supply)})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return {"role": role, "content": parts}
