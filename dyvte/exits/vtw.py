"""The policy ``vtw``: one exit layer for all, where the next token's distribution stops to move.

VTW (Visual Tokens Withdrawal, arXiv 2405.05803) takes the image out before layer k, the first of
5..L−1 where KL(full ‖ cut) of the last token's distribution, averaged over a few samples, is
under η (0.003 for the 7B model). It promises nothing about answers. Shallower models begin
earlier: at 5/32 of their depth, at least 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dyvte.exits.policy import Fixed

ETA = 0.003
PAPER_FIRST, PAPER_DEPTH = 5, 32


@dataclass(frozen=True, slots=True)
class Vtw(Fixed):
    """``Fixed`` at k − 1, under the name that the request used."""

    name: ClassVar[str] = "vtw"


@dataclass(frozen=True, slots=True)
class VtwRule:
    """``k``, and what led to it: mean KL in nats after each of ``layers``."""

    k: int
    eta: float
    layers: tuple[int, ...]
    kl: tuple[float, ...]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> VtwRule:
        """Read a card's field. Raises ValueError."""
        try:
            lists = {name: tuple(value[name]) for name in ("layers", "kl")}
            return cls(**{**value, **lists, "k": int(value["k"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"not a vtw rule: {error}") from error


def first_k(num_layers: int) -> int:
    """The smallest k that is looked at: 5 of 32 layers, in proportion, never 0."""
    return max(1, round(PAPER_FIRST * num_layers / PAPER_DEPTH))


def find_k(
    layers: Sequence[int], kl: Sequence[float], num_layers: int, eta: float
) -> VtwRule | None:
    """The first k in range whose KL is under ``eta``; None if there is none.

    ``kl[j]`` is the mean over samples with the image cut after ``layers[j]``, that is for
    k = ``layers[j]`` + 1.
    """
    for layer, value in zip(layers, kl, strict=True):
        if first_k(num_layers) <= layer + 1 <= num_layers - 1 and value < eta:
            return VtwRule(layer + 1, eta, tuple(layers), tuple(kl))
    return None
