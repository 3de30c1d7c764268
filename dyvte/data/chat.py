"""Rows of OpenAI chat messages: what a client would send, and what the right answer is.

``{"messages": [...], "id"?, "answer"?, "answers"?, "choices"?, "kind"?}``. A last message of the
assistant is the given answer unless ``answer`` says another. ``image_url`` is a path or a data
URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyvte.data.pictures import picture_of
from dyvte.data.sample import DataError, Sample
from dyvte.prompt import DETAILS, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def chat_samples(row: Mapping[str, Any], line: int, group: int, folder: Path) -> list[Sample]:
    """The one sample of a row: its last question. Raises DataError, PictureError."""
    given = row["messages"]
    if not isinstance(given, list) or not given:
        raise DataError('"messages" must be a list with at least one message')
    messages = [_message(message, folder) for message in given]
    said = _text(messages.pop()) if messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        raise DataError("there is no user turn to answer")
    accepted = _strings(row, "answers")
    answer = _string(row, "answer") or said or (accepted[0] if accepted else None)
    return [
        Sample(
            id=str(row.get("id", f"row-{group}")),
            line=line,
            group=group,
            messages=tuple(messages),
            answer=answer,
            answers=accepted or (() if answer is None else (answer,)),
            choices=_strings(row, "choices"),
            kind=_string(row, "kind") or "",
        )
    ]


def _message(message: Any, folder: Path) -> Message:
    role = ROLES.get(str(message.get("role"))) if isinstance(message, dict) else None
    if role is None:
        raise DataError(f"a message needs a role of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise DataError(f"the content of a {role} message must be text or a list of parts")
    return {"role": role, "content": [_part(part, role, folder) for part in content]}


def _part(part: Any, role: str, folder: Path) -> Mapping[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in ("image_url", "image"):
        raise DataError(f"a content part of type {kind!r}: use text or image_url")
    if role != "user":
        raise DataError(f"{role} messages cannot hold an image")
    url = part.get(kind)
    detail = None
    if isinstance(url, dict):
        detail = url.get("detail")
        url = url.get("url")
    if not isinstance(url, str) or not url:
        raise DataError(f'an {kind} part needs a path or a data URL as "{kind}"')
    if detail not in (None, *DETAILS):
        raise DataError(f"detail {detail!r} of an image: use {', '.join(DETAILS)}")
    return {"type": "image", "image": picture_of(url, folder), "detail": detail or DETAILS[0]}


def _text(message: Message) -> str | None:
    content = message["content"]
    if isinstance(content, str):
        return content.strip() or None
    return "".join(part["text"] for part in content).strip() or None


def _string(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f'"{key}" must be text, not {type(value).__name__}')
    return value.strip() or None if value is not None else None


def _strings(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise DataError(f'"{key}" must be a list of texts')
    return tuple(value)
