"""Whether compiled code in a file may be loaded: finished, and written by nobody else.

To map half a shared object kills the process, and one that another user planted does what that user
likes. Knows nothing of what is compiled.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

SEAL = hashlib.sha256().digest_size


def seal(path: Path) -> None:
    """Append the hash of the file's bytes, which loaders of shared objects never read."""
    with path.open("rb+") as file:
        file.write(hashlib.sha256(file.read()).digest())
    path.chmod(0o755)  # a compiler leaves what the umask leaves, which may let a group write


def is_whole(path: Path) -> bool:
    """True for a file as ``seal`` left it."""
    try:
        found = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(found[:-SEAL]).digest() == found[-SEAL:]


def is_private(path: Path) -> bool:
    """True if this user and root alone can change what lies at ``path``.

    Nobody else owns it or a folder above it, or may write to it; further up, a group may write, and
    everyone where only owners may rename (``/tmp``). ``path`` is absolute, without links.
    """
    try:
        return all(_is_safe(each.lstat(), each == path) for each in (path, *path.parents))
    except OSError:
        return False


def _is_safe(found: os.stat_result, itself: bool) -> bool:
    if found.st_uid not in (0, os.getuid()) or stat.S_ISLNK(found.st_mode):
        return False
    if itself:
        return not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not found.st_mode & stat.S_IWOTH or bool(found.st_mode & stat.S_ISVTX)
