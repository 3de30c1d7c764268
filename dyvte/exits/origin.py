"""Which model a gate card is about, so that gates of one are not taken for those of another.

Two models of the same width look alike to gates, and would be given exits that nobody measured.
A model is told by a sample of its weights, not by its files: those are rewritten by conversion, by
another type and by another version of a library, and the model stays the same. Knows no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ULP = 2.0**-7  # of bfloat16, relative to the value, at most
TINY = 1e-6  # float16 holds numbers below 6e-5 with fewer bits


@dataclass(frozen=True, slots=True)
class Origin:
    """A model: ``family`` and ``name`` for people, ``weights`` a sample of bfloat16 in hex.

    The sample is spread evenly over each part of a model (``dyvte.models.parts``), so that models
    which share a frozen decoder are told apart by their projectors.
    """

    family: str
    name: str
    weights: str

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Origin:
        """From plain values, as a card holds them. Raises TypeError, ValueError."""
        origin = cls(**value)
        _numbers(origin.weights)
        return origin

    def same_model(self, other: Origin) -> bool:
        """True if the weights agree, up to the rounding of 16-bit types.

        Conversion may give the same model another family's name, so that does not count.
        """
        if len(self.weights) != len(other.weights):
            return False
        pairs = zip(_numbers(self.weights), _numbers(other.weights), strict=True)
        return all(abs(a - b) <= ULP * max(abs(a), abs(b)) + TINY for a, b in pairs)

    def __str__(self) -> str:
        return f"{self.family} {self.name!r} (weights {self.weights[:8]}…)"


def _numbers(weights: str) -> list[float]:
    """bfloat16 is the upper half of a float32."""
    halves = struct.iter_unpack(">2s", bytes.fromhex(weights))
    return [struct.unpack(">f", half + b"\0\0")[0] for (half,) in halves]
