"""Policies and pruning methods that other packages bring, found by entry point.

A broken package is an error that names it, not a method that is silently missing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from dyvte.errors import ModelError


@functools.cache
def entry_points(group: str) -> Mapping[str, Any]:
    """What installed packages offer in ``group``, by name. Raises ModelError."""
    found: dict[str, Any] = {}
    for entry in metadata.entry_points(group=group):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            raise ModelError(f"{group}: {entry.value} cannot be loaded ({error})") from error
    return found
