"""Greedy questions about drawn pictures, under many exits: the load of soak and overload."""

from __future__ import annotations

import random
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

from tests.server.examples import data_url, with_images

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
TEXTS = (
    "What color is the circle?",
    "Describe the picture.",
    "How many objects are there?",
    "Is there a square?",
)
EXITS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"policy": "off"},
    {"aggressiveness": 0.5},
    {"policy": "fixed", "exit_layer": 3},
    {"max_risk": 0.02},
    {"policy": "fixed", "exit_layer": 5, "prune": {"method": "fastv", "layer": 3, "ratio": 0.5}},
)


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` requests; the same seed makes the same."""
    rng = random.Random(seed)
    return [_question(rng) for _ in range(count)]


def _question(rng: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": rng.choice((4, 12, 32))}
    exits = rng.choice(EXITS)
    if exits:
        fields["dyvte"] = exits
    request = with_images(*[_picture(rng) for _ in range(rng.choice((0, 1, 1, 1, 2)))], **fields)
    request["messages"][0]["content"][-1]["text"] = rng.choice(TEXTS)
    if exits and "max_risk" in exits and len(request["messages"][0]["content"]) == 1:
        del request["dyvte"]
    return request


def _picture(rng: random.Random) -> str:
    width, height = rng.randint(60, 400), rng.randint(60, 400)
    picture = Image.new("RGB", (width, height), "white")
    pencil = ImageDraw.Draw(picture)
    for shape in (pencil.ellipse, pencil.rectangle):
        x, y = rng.randint(0, width // 2), rng.randint(0, height // 2)
        side = rng.randint(20, min(width, height) // 2)
        shape((x, y, x + side, y + side), fill=rng.choice(COLORS))
    form = rng.choice(("PNG", "JPEG", "WEBP"))
    file = BytesIO()
    picture.save(file, form)
    return data_url(file.getvalue(), form.lower())
