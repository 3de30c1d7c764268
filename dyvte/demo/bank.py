"""A bank of drawn training pictures on disk, so that training reads instead of draws.

Owns two arrays in a folder: pictures `[N, PIXELS, PIXELS, 3]` and patch owners `[N, GRID, GRID]`,
both uint8. Row i is the scene of seed `first_seed + i`; the scene itself is not stored, it is
sampled again from that seed whenever questions about it are asked.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyvte.demo.render import GRID, PIXELS, Camera, patch_owners, render, to_square
from dyvte.demo.world import sample_scene

_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Bank:
    """Read-only view of a finished bank."""

    pictures: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    first_seed: int

    def __len__(self) -> int:
        return len(self.owners)


def _paths(folder: Path, count: int, first_seed: int) -> tuple[Path, Path, Path]:
    stem = f"bank-{first_seed}-{count}"
    return folder / f"{stem}.u8", folder / f"{stem}.owners.npy", folder / f"{stem}.done"


def _draw_chunk(task: tuple[Path, int, int, int]) -> tuple[int, NDArray[np.uint8]]:
    path, count, first_seed, start = task
    stop = min(start + _CHUNK, count)
    shape = (count, PIXELS, PIXELS, 3)
    pictures = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    owners = np.zeros((stop - start, GRID, GRID), dtype=np.uint8)
    for row in range(start, stop):
        seed = first_seed + row
        scene = sample_scene(seed)
        pictures[row] = to_square(render(scene, Camera.sample(seed), seed))
        owners[row - start] = patch_owners(scene)
    pictures.flush()
    return start, owners


def open_bank(folder: Path, count: int, first_seed: int = 0, workers: int = 2) -> Bank:
    """The bank of `count` pictures in `folder`, drawn first if it is not there yet."""
    pixels_path, owners_path, done_path = _paths(folder, count, first_seed)
    shape = (count, PIXELS, PIXELS, 3)
    if not done_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.memmap(pixels_path, dtype=np.uint8, mode="w+", shape=shape).flush()
        owners = np.zeros((count, GRID, GRID), dtype=np.uint8)
        tasks = [(pixels_path, count, first_seed, start) for start in range(0, count, _CHUNK)]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for start, rows in pool.imap_unordered(_draw_chunk, tasks):
                owners[start : start + len(rows)] = rows
        np.save(owners_path, owners)
        done_path.touch()
    pictures = np.memmap(pixels_path, dtype=np.uint8, mode="r", shape=shape)
    return Bank(pictures, np.load(owners_path), first_seed)
