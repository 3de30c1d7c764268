"""A picture file of the user's own, opened for the model: upright, opaque, RGB.

The user names the file and may open anything on this machine; limits against strangers' images
are the server's.
"""

from __future__ import annotations

import os

from PIL import Image, ImageOps

from dyvte.cli.usage import CommandError


def open_picture(path: str) -> Image.Image:
    """Return the first frame of ``path`` in RGB. Raises CommandError if there is none."""
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "not found"
        raise CommandError(f"image {path} {what}", "give the path of a picture file")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            return _opaque(upright)
    except Image.DecompressionBombError:
        raise CommandError(f"image {path} has too many pixels", "make it smaller") from None
    except (OSError, SyntaxError, ValueError, RuntimeError):
        # Pillow raises all of them for broken files, depending on the decoder.
        raise CommandError(
            f"image {path} cannot be read", "give a whole JPEG, PNG, WebP or GIF file"
        ) from None


def _opaque(picture: Image.Image) -> Image.Image:
    """On white: what is fully transparent often carries black behind it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
