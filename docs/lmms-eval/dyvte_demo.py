"""The functions of the task `dyvte_demo` for lmms-eval: what is asked, and what is right."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

Row = dict[str, Any]


def pictures(row: Row) -> list[Image.Image]:
    """The row's one picture."""
    return [Image.open(io.BytesIO(row["image"])).convert("RGB")]


def question(row: Row, settings: Row | None = None) -> str:
    """The text of the question; lmms-eval puts the picture before it."""
    return str(row["question"])


def graded(row: Row, results: list[str]) -> dict[str, float]:
    """One exact match, without regard to case and outer blanks."""
    return {"exact_match": float(results[0].strip().casefold() == row["answer"].casefold())}
