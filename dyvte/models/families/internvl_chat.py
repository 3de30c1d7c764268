"""InternVL chat in its authors' layout: InternVL, whose pixel shuffle may be of the first version.

Version 1 lists the joined patches of a tile column by column, which is the grid of version 2
(``transformers``' own) transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.models.families.internvl import InternVLAdapter

SHUFFLES = COLUMNS, ROWS = "v1", "v2"


class InternVLChatAdapter(InternVLAdapter):
    """An ``InternVLForConditionalGeneration`` whose tiles are listed as ``shuffle`` says."""

    family = "internvl_chat"

    def __init__(self, model: Any, gates: GateBank | None = None, shuffle: str = ROWS) -> None:
        super().__init__(model, gates)
        if shuffle not in SHUFFLES:
            raise ModelError(f"ps_version {shuffle!r} is not known ({', '.join(SHUFFLES)} are)")
        self._columns_first = shuffle == COLUMNS
        self._grid = round(self.rows_per_tile**0.5)

    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the tiles of all prompts."""
        rows = super().encode_images(images)
        if not self._columns_first:
            return rows
        return [[self._transposed(image) for image in prompt] for prompt in rows]

    def _transposed(self, rows: Tensor) -> Tensor:
        tiles = rows.view(-1, self._grid, self._grid, rows.shape[1])
        return tiles.transpose(1, 2).reshape(rows.shape)
