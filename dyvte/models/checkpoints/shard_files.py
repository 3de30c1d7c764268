"""Named tensors into safetensors files of bounded size, with the index that says which is where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 * 10**9
"""Two files' worth of memory is in use while one is written; 5 GB is what hubs take at most."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def shards(state: Mapping[str, Tensor], limit: int = SHARD_BYTES) -> list[list[str]]:
    """Names of each file, in the order of ``state``; a tensor above ``limit`` has one to itself."""
    found: list[list[str]] = []
    filled = limit
    for name, tensor in state.items():
        size = size_of(tensor)
        if not found or filled + size > limit:
            found.append([])
            filled = 0
        found[-1].append(name)
        filled += size
    return found


def write_shards(
    folder: Path,
    state: Mapping[str, Tensor],
    progress: Callable[[int], None],
    limit: int = SHARD_BYTES,
) -> None:
    """Write all of ``state``; ``progress`` is told the bytes done.

    Tensors that still lie in their files are read one file of ours at a time.
    """
    parts = shards(state, limit)
    names = [SINGLE] if len(parts) == 1 else list(_names(len(parts)))
    done = 0
    for file, part in zip(names, parts, strict=True):
        held: dict[str, Tensor] = {}
        for name in part:
            held[name] = state[name].clone().contiguous()
            done += size_of(held[name])
            progress(done)
        save_file(held, folder / file, metadata={"format": "pt"})
    if len(parts) > 1:
        where = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        total = {"total_size": sum(map(size_of, state.values()))}
        index = {"metadata": total, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _names(count: int) -> Iterator[str]:
    return (f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
