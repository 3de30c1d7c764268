"""Rows that the vision tower gave for images seen before, found again by their content.

What is kept is a prompt's images together, since some families look at several images otherwise
than at each alone. Least recently used goes first when the budget is full. A salt keeps the
entries of one caller from another's, who could otherwise tell by the time of a request what
somebody else has shown. Holds tensors; knows no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor


def content_key(images: Mapping[str, Any]) -> bytes:
    """32 bytes that stand for processed images: names, types, shapes and every value.

    Each part is framed by its type and shape, so that no two contents give the same bytes.
    """
    digest = blake2b(digest_size=32)
    for name in sorted(images):
        value = images[name]
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
        digest.update(f"{name}:{len(parts)};".encode())
        for part in parts:
            tensor = torch.as_tensor(part).detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


@dataclass(slots=True)
class ImageCache:
    """Rows ``[V_i, d]`` per image of a prompt, up to ``max_bytes`` in all; 0 keeps nothing.

    Used by the engine's thread alone. Tensors handed out are shared: nobody may write to them.
    """

    max_bytes: int
    held: int = 0
    _entries: OrderedDict[tuple[str, bytes], list[Tensor]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, salt: str, key: bytes) -> list[Tensor] | None:
        """The rows of these images, if they are there."""
        rows = self._entries.get((salt, key))
        if rows is not None:
            self._entries.move_to_end((salt, key))
        return rows

    def put(self, salt: str, key: bytes, rows: Sequence[Tensor]) -> None:
        """Keep rows; what is larger than the whole budget is not kept."""
        size = _bytes(rows)
        if size > self.max_bytes or (salt, key) in self._entries:
            return
        while self.held + size > self.max_bytes:
            self.held -= _bytes(self._entries.popitem(last=False)[1])
        self._entries[salt, key] = [_own(each) for each in rows]
        self.held += size


def _bytes(rows: Sequence[Tensor]) -> int:
    return sum(each.nbytes for each in rows)


def _own(rows: Tensor) -> Tensor:
    """Rows without the rest of the batch that they were cut from, which would stay with them."""
    return rows.clone() if rows.untyped_storage().nbytes() > rows.nbytes else rows
