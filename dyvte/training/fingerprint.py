"""Which file, which weights: short digests that a run which goes on is held to."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 1 << 20
BLOCKS = 64


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """Of a model folder's configuration, and of its weights' sizes and a sample of their bytes.

    At most 64 blocks of 1 MB a file are read, evenly spread, the first and the last among them:
    weights that were trained on differ everywhere, and a 7B model need not be read twice.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        last = max(0, size - BLOCK)
        with path.open("rb") as file:
            for at in sorted({last * index // (BLOCKS - 1) for index in range(BLOCKS)}):
                file.seek(at)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
