"""An image file → an upright RGB picture, under limits. Blocking: runs in worker threads.

Files come out of ``data:`` URLs here and from named hosts in ``server.remote``; nobody's string
ever reaches a function that opens files. Pixels are counted from the header before anything is
decoded, and only four formats are tried. What Pillow says about a broken file stays here:
messages are fixed, since library texts have leaked addresses elsewhere (CVE-2026-22778).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from io import BytesIO

from PIL import Image

from dyvte.pictures import rgb
from server.in_flight import InFlight

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DATA_URL = re.compile(r"data:image/(?:jpeg|jpg|png|webp|gif);base64,", re.IGNORECASE)


class ImageFault(StrEnum):
    """Why an image was refused; the label of ``dyvte_media_errors_total``."""

    URL = "url"
    FETCH = "fetch"
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
    if scheme.startswith("http:"):
        return "http: images are not fetched; send a data: URL"
    if scheme.startswith("data:"):
        return "must be data:image/jpeg, png, webp or gif in base64 (data:image/png;base64,…)"
    return "must be a data: URL (data:image/png;base64,…)"


Decoding = InFlight[bytes, Image.Image]
"""Pictures that are being decoded now, by the hash of the whole file."""


def decode_image(data: bytes, limits: ImageLimits, decoding: Decoding | None = None) -> Image.Image:
    """``data`` as an upright RGB picture without transparency. Raises ImageError.

    The picture may be shared with other callers of the same ``decoding``: do not change it.
    """
    if not data:
        raise ImageError(ImageFault.EMPTY, "the image is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            limits.take(*opened.size)
            if decoding is None:
                return _read(opened)
            return decoding.result(sha256(data).digest(), lambda: _read(opened))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(ImageFault.TOO_MANY_PIXELS, "the image has too many pixels") from None
    except Exception:  # Pillow's decoders raise nearly anything on hostile bytes
        raise ImageError(
            ImageFault.UNREADABLE, "the image cannot be read; send a whole JPEG, PNG, WebP or GIF"
        ) from None


def _read(opened: Image.Image) -> Image.Image:
    opened.load()
    return rgb(_upright(opened))


def _upright(image: Image.Image) -> Image.Image:
    """Turn as EXIF says; a broken EXIF block says nothing, and none of it is written again."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)
