"""Every native family that is tested; a new one adds its file and one line here."""

from __future__ import annotations

from tests.models.families import llava
from tests.models.families.family import Family

FAMILIES: list[Family] = [
    *llava.FAMILIES,
]
