"""Every native family that is tested; a new one adds its file and one line here."""

from __future__ import annotations

from tests.models.families import internvl, llava, llava_next, llava_onevision, qwen_vl
from tests.models.families.family import Family

FAMILIES: list[Family] = [
    *llava.FAMILIES,
    *llava_next.FAMILIES,
    *llava_onevision.FAMILIES,
    *internvl.FAMILIES,
    *qwen_vl.FAMILIES,
]
