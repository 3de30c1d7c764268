"""Pictures of a data file, named when the file is read and opened when they are needed.

A picture is a path or a data URL; nothing is fetched from a network.
"""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

LONGEST_NAME = 300  # of a path in an error


class PictureError(ValueError):
    """A picture that is not there or cannot be decoded: says which and why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file (``path``) or the bytes behind a data URL (``encoded``, base64); one of the two."""

    path: Path | None = None
    encoded: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What an error calls it."""
        return str(self.path) if self.path is not None else "the data URL"

    @property
    def key(self) -> str:
        """The same for the same path, or for the same bytes in data URLs."""
        if self.encoded is None:
            return str(self.path)
        return hashlib.blake2b(self.encoded.encode(), digest_size=16).hexdigest()

    def open(self) -> Image.Image:
        """Decode: upright, opaque (on white), RGB, first frame. Raises PictureError."""
        try:
            with Image.open(self.path or io.BytesIO(self._bytes())) as opened:
                return _opaque(ImageOps.exif_transpose(opened))
        except Image.DecompressionBombError:
            raise PictureError(f"image {self.name} has too many pixels") from None
        except Exception as error:
            # For broken files Pillow raises what its decoders do: OSError, SyntaxError, ValueError,
            # RuntimeError (AVIF), NotImplementedError (DDS).
            raise PictureError(f"image {self.name} cannot be decoded") from error

    def _bytes(self) -> bytes:
        assert self.encoded is not None, "a picture has a path or bytes"
        return base64.b64decode(self.encoded, validate=True)


def picture_of(url: str, folder: Path) -> Picture:
    """A path relative to ``folder``, a ``file://`` URL or a data URL. Raises PictureError."""
    if url.startswith("data:"):
        head, comma, encoded = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise PictureError("a data URL must be data:image/…;base64,…")
        return Picture(encoded=encoded)
    if url.startswith(("http://", "https://")):
        raise PictureError("http images are not fetched: give a path or a data URL")
    path = folder / url.removeprefix("file://")
    if not _is_file(path):
        raise PictureError(f"image {_shortened(str(path))} not found")
    return Picture(path=path)


def _is_file(path: Path) -> bool:
    """False also for what cannot be a path, as base64 without ``data:`` before it."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}… (base64 needs data:)"


def _opaque(picture: Image.Image) -> Image.Image:
    """On white: what is fully transparent often carries black behind it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
