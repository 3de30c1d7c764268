"""What every client is asked and how its answer is judged; the standard library only.

A client's program hands ``report`` one function per thing that the client offers; each talks to
the server through the client alone. What is judged comes from the served picture: the circle is
red, a stream says what the whole answer says, calls and structured answers keep to ``SCHEMA``.

The programs run where only their client is installed; mypy, which runs elsewhere, is told to pass
them by.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BASE_URL = os.environ["CLIENT_BASE_URL"]
API_KEY = os.environ["CLIENT_API_KEY"]
MODEL = "demo"
PICTURE = Path(os.environ["CLIENT_PICTURE"])
DATA_URL = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
QUESTION, ANSWER = "What color is the circle?", "red"
LONGER = "Describe the picture."
MAX_TOKENS = 256
COLORS, SHAPES = ("red", "green", "blue"), ("circle", "square")
TOOL = "paint"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"type": "string", "enum": list(COLORS)},
        "shape": {"type": "string", "enum": list(SHAPES)},
    },
    "required": ["color", "shape"],
    "additionalProperties": False,
}


def messages(text: str) -> list[dict[str, Any]]:
    """The picture and ``text``, as OpenAI's messages."""
    image = {"type": "image_url", "image_url": {"url": DATA_URL}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def report(
    image: Callable[[], str] | None = None,
    stream: Callable[[], Sequence[str]] | None = None,
    tools: Callable[[], tuple[str, dict[str, Any]]] | None = None,
    structured: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Run the checks and write ``{"image": "pass", …}``; what is not offered is left out."""
    judged: list[tuple[str, Any, Callable[[Any], None]]] = [
        ("image", image, _is_answer),
        ("stream", stream, _is_whole),
        ("tools", tools, _is_call),
        ("structured", structured, _fits),
    ]
    results: dict[str, str] = {}
    for name, ask, judge in judged:
        if ask is None:
            continue
        try:
            judge(ask())
            results[name] = "pass"
        except Exception as error:
            traceback.print_exc()
            results[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(results) + "\n")


def _is_answer(text: str) -> None:
    assert ANSWER in text, f"asked for the circle's colour, got {text!r}"


def _is_whole(pieces: Sequence[str]) -> None:
    whole = _whole_answer()
    assert "".join(pieces) == whole, f"{pieces!r} is not {whole!r}"
    assert len([piece for piece in pieces if piece]) > 1, "one piece is no stream"


def _is_call(call: tuple[str, dict[str, Any]]) -> None:
    name, arguments = call
    assert name == TOOL, f"called {name!r}"
    _fits(arguments)


def _fits(thing: dict[str, Any]) -> None:
    assert set(thing) == {"color", "shape"}, f"got {thing!r}"
    assert thing["color"] in COLORS, f"got {thing!r}"
    assert thing["shape"] in SHAPES, f"got {thing!r}"


def _whole_answer() -> str:
    """The answer to ``LONGER`` without a stream and without any client."""
    asked = {"model": MODEL, "messages": messages(LONGER), "temperature": 0}
    request = urllib.request.Request(
        f"{BASE_URL}/chat/completions",
        json.dumps({**asked, "max_tokens": MAX_TOKENS}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        text: str = json.load(reply)["choices"][0]["message"]["content"]
    return text
