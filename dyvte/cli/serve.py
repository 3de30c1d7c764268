"""`dyvte serve`: hands its arguments, unread, to the server's own entry point."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Serve until told to stop."""
    from server.__main__ import main  # the server and its web framework load only here

    return main(argv)
