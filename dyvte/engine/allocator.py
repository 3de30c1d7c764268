"""How glibc's allocator behaves in a process that serves on a CPU: what it does with freed tensors.

Kept, they make a process grow by gigabytes: tensors ask for aligned memory, which needs a little
more than the hole that one of the same size left behind. Given back, each new one costs a fault a
page, which the kernel clears. So they are given back where layers hold what they need again
(``dyvte.models.workspace``), and kept elsewhere. Without glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import logging

from dyvte.models.adapter import ModelAdapter
from dyvte.models.decoder import DecoderAdapter

log = logging.getLogger("dyvte.engine")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # mallopt's
LARGE = 2**20
"""Bytes from which a tensor is mapped by itself: those of a decode step are smaller."""
END = 2**26
"""Bytes at the heap's end that are kept for what comes next."""


def settle(adapter: ModelAdapter) -> None:
    """Once a model is loaded, choose for it."""
    if adapter.device.type != "cpu":
        return
    if isinstance(adapter, DecoderAdapter) and adapter.holds_memory:
        give_back_freed_memory()
    else:
        keep_freed_memory()


def give_back_freed_memory() -> None:
    """What is free goes back to the kernel now, and later tensors as soon as they are freed.

    Threads that begin from here on share the arenas that there are: each of its own would hold
    tens of megabytes, and the GIL keeps them apart anyway.
    """
    _set({M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: END})
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """What is freed is kept for the next tensor: the process stays as large as it once was."""
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})


def _set(options: dict[int, int]) -> None:
    libc = _libc()
    for option, value in options.items():
        if libc is not None and not libc.mallopt(option, value):
            log.debug("the allocator took no setting %d", option)


def _libc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    try:
        found = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return found if hasattr(found, "mallopt") and hasattr(found, "malloc_trim") else None
