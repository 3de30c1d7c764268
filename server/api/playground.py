"""The pages at ``/`` and ``/docs``: files from the package, and nothing from anywhere else.

The playground's files are the same on every server and tell nothing about this one, so that a
browser gets them without a key; what they ask for (``/v1/…``) is guarded like everybody's requests,
and so is ``/docs``.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PLAYGROUND = Path(__file__).parents[1] / "playground"
ASSETS = PLAYGROUND / "assets"
MOUNT = "/playground"

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    # Text becomes a document's text and nothing else: a browser refuses innerHTML and its kin.
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def open_paths() -> tuple[str, ...]:
    """The playground's own paths, each by name: what a browser may fetch before it has a key."""
    files = (path for path in sorted(ASSETS.rglob("*")) if path.is_file() and not _of_docs(path))
    assets = (f"{MOUNT}/{path.relative_to(ASSETS).as_posix()}" for path in files)
    return ("/", "/favicon.ico", *assets)


def _of_docs(path: Path) -> bool:
    """True for files of the reference alone."""
    return path.stem == "reference"


async def page() -> Response:
    """The playground."""
    return FileResponse(PLAYGROUND / "index.html", headers=PAGE_HEADERS)


async def reference() -> Response:
    """``/openapi.json``, readable. (FastAPI's own page loads its scripts from other hosts.)"""
    return FileResponse(PLAYGROUND / "reference.html", headers=PAGE_HEADERS)


async def favicon() -> Response:
    """The icon."""
    icon = PLAYGROUND / "favicon.svg"
    return FileResponse(icon, headers=PAGE_HEADERS, media_type="image/svg+xml")


class Assets(StaticFiles):
    """Scripts, style and pictures of the pages, under their headers."""

    def __init__(self) -> None:
        super().__init__(directory=ASSETS)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """The file, or a 304."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(PAGE_HEADERS)
        return response
