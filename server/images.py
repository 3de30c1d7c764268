"""A user's image URL → an RGB picture, under limits. Blocking: runs in worker threads.

Only ``data:`` URLs; nobody's string ever reaches a function that opens files or sockets. Pixels
are counted from the header before anything is decoded, and only four formats are tried. What
Pillow says about a broken file stays here: messages are fixed, since library texts have leaked
addresses elsewhere (CVE-2026-22778).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO

from PIL import Image, ImageOps

from dyvte.pictures import rgb

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
ORIENTATION = 0x0112
LOW_DETAIL = (512, 512)  # OpenAI's "low": a version of at most 512 × 512
_DATA_URL = re.compile(r"data:image/(?:jpeg|jpg|png|webp|gif);base64,", re.IGNORECASE)


class ImageFault(StrEnum):
    """Why an image was refused; the label of ``dyvte_media_errors_total``."""

    URL = "url"
    BASE64 = "base64"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNREADABLE = "unreadable"


class ImageError(Exception):
    """An image that is refused, with the sentence that the user reads."""

    def __init__(self, fault: ImageFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


@dataclass(slots=True)
class ImageLimits:
    """Caps of one image, and what is left of the request's budget of pixels."""

    max_bytes: int
    max_pixels: int
    pixels_left: int = field(default=2**63)

    def take(self, width: int, height: int) -> None:
        """Count an image's pixels. Raises ImageError where they are too many."""
        pixels = width * height
        if pixels > self.max_pixels:
            raise ImageError(
                ImageFault.TOO_MANY_PIXELS,
                f"the image has {width} × {height} pixels; at most {self.max_pixels} are allowed",
            )
        if pixels > self.pixels_left:
            raise ImageError(
                ImageFault.TOO_MANY_PIXELS, "the images of this request have too many pixels"
            )
        self.pixels_left -= pixels


def read_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of a ``data:`` URL. Raises ImageError."""
    match = _DATA_URL.match(url)
    if not match:
        raise ImageError(ImageFault.URL, _refusal(url))
    payload = url[match.end() :]
    if not payload:
        raise ImageError(ImageFault.EMPTY, "the image is empty")
    if len(payload) > (max_bytes + 2) // 3 * 4:
        raise ImageError(
            ImageFault.TOO_MANY_BYTES, f"the image file is larger than {max_bytes} bytes"
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(ImageFault.BASE64, "the image is not valid base64") from None


def _refusal(url: str) -> str:
    scheme = url[:8].lower()
    if scheme.startswith(("http:", "https:")):
        return "remote images are off until the operator names hosts; send a data: URL"
    if scheme.startswith("data:"):
        return "must be data:image/jpeg, png, webp or gif in base64 (data:image/png;base64,…)"
    return "must be a data: URL (data:image/png;base64,…)"


def decode_image(data: bytes, limits: ImageLimits, detail: str = "auto") -> Image.Image:
    """``data`` as an upright RGB picture without transparency. Raises ImageError."""
    if not data:
        raise ImageError(ImageFault.EMPTY, "the image is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            limits.take(*opened.size)
            opened.load()
            picture = rgb(_upright(opened))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(ImageFault.TOO_MANY_PIXELS, "the image has too many pixels") from None
    except Exception:  # Pillow's decoders raise nearly anything on hostile bytes
        raise ImageError(
            ImageFault.UNREADABLE, "the image cannot be read; send a whole JPEG, PNG, WebP or GIF"
        ) from None
    if detail == "low":
        picture.thumbnail(LOW_DETAIL)
    return picture


def _upright(image: Image.Image) -> Image.Image:
    """Turn as EXIF says; a broken EXIF block says nothing."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:
        return image
    return ImageOps.exif_transpose(image) if turned else image
