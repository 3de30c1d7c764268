"""What a study is asked to find out. Knows no torch, so that a wrong word is told at once."""

from __future__ import annotations

from dataclasses import dataclass

from dyvte.errors import OptionError
from dyvte.params import ExitOptions

FIGURES = ("weights", "score", "entropy", "exits", "heatmap")


def figures_of(text: str) -> frozenset[str]:
    """``"weights, score"`` → names of figures. Raises OptionError."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    for name in sorted(names - set(FIGURES)) or ([""] if not names else []):
        raise OptionError("figures", f"{name!r} is not a figure; they are {', '.join(FIGURES)}")
    return names


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """``exits`` is the exit that "with exit" means; ``limit`` counts samples with an image;
    ``stride`` is the distance between forced exit layers; ``max_tokens`` bounds an answer."""

    exits: ExitOptions
    figures: frozenset[str] = frozenset(FIGURES)
    limit: int = 100
    max_tokens: int = 32
    stride: int = 1
