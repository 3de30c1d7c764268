"""Hostile inputs from good ones: files and JSON bodies, changed by a seeded generator.

The same generator state makes the same input. PNG files get their checksums mended half of the
time, so that what is wrong with a chunk is met by what reads the chunk and not by its CRC.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
PNG = b"\x89PNG\r\n\x1a\n"


def pictures() -> list[bytes]:
    """Small good files: every format that is read, and the modes that are treated apart."""
    base = Image.effect_noise((24, 17), 60)
    color = Image.merge("RGB", (base, base.rotate(90, expand=False), base.rotate(180)))
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (color, "PNG", {}),
        (color.quantize(16), "PNG", {"transparency": 3}),
        (Image.merge("LA", (base, base)), "PNG", {}),
        (base.convert("I;16"), "PNG", {}),
        (color.convert("1"), "PNG", {}),
        (color, "PNG", {"exif": _turned()}),
        (color, "JPEG", {"quality": 80}),
        (color, "JPEG", {"progressive": True, "exif": _turned()}),
        (color.convert("CMYK"), "JPEG", {}),
        (base, "JPEG", {}),
        (color, "WEBP", {"lossless": True}),
        (color.convert("RGBA"), "WEBP", {"quality": 50}),
        (color, "GIF", {}),
        (color, "GIF", {"save_all": True, "append_images": [color.rotate(5)], "duration": 20}),
    ]
    files = []
    for image, form, options in made:
        file = BytesIO()
        image.save(file, form, **options)
        files.append(file.getvalue())
    return files


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def mutated_file(files: Sequence[bytes], rng: random.Random) -> bytes:
    """One of ``files`` after one to six changes."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_FILE_CHANGES)(data, files, rng)
    made = bytes(data)
    return _with_checksums(made) if made.startswith(PNG) and rng.random() < 0.5 else made


def _flip(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    width = rng.choice((1, 2, 4))
    at, order = rng.randrange(len(data) + 1), rng.choice(("big", "little"))
    value = rng.choice(INTERESTING) & (256**width - 1)
    data[at : at + width] = value.to_bytes(width, "big" if order == "big" else "little")


def _cut(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randint(1, 64)] * rng.randint(1, 16)


def _truncate(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _splice(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(files)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other)) :]


def _noise(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 32))


FileChange = Callable[[bytearray, Sequence[bytes], random.Random], None]
_FILE_CHANGES: tuple[FileChange, ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _cut,
    _repeat,
    _truncate,
    _splice,
    _noise,
)


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks, as far as their lengths hold, have the right checksums."""
    made, at = bytearray(data), len(PNG)
    while at + 12 <= len(made):
        (length,) = struct.unpack_from(">I", made, at)
        end = at + 8 + length
        if end + 4 > len(made):
            break
        struct.pack_into(">I", made, end, zlib.crc32(made[at + 4 : end]))
        at = end + 4
    return bytes(made)


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30),
    *("", " ", "\x00", "\ud7ff\u202e\U0001f600", "a" * 5000, "<image>", "<|im_end|>", "{{7*7}}"),
    *([], {}, [[]], [None], [0] * 300, {"": {}}, {"type": "text"}, {"type": "image_url"}),
    *("data:image/png;base64,", "data:image/png;base64,AAAA", "file:///etc/passwd"),
    *("http://127.0.0.1/a.png", "https://169.254.169.254/", "NaN", "required", "json_schema"),
)


def _hostile(rng: random.Random) -> Any:
    """One of ``HOSTILE``, copied: what is put into a body may be changed there."""
    return copy.deepcopy(rng.choice(HOSTILE))


def mutated_body(bodies: Sequence[dict[str, Any]], rng: random.Random) -> bytes:
    """One of ``bodies`` after one to four changes, as bytes that need not be JSON."""
    value: Any = json.loads(json.dumps(rng.choice(bodies)))
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, bodies, rng)
    made = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        data = bytearray(made)
        rng.choice(_FILE_CHANGES)(data, [json.dumps(body).encode() for body in bodies], rng)
        made = bytes(data)
    return made


def _changed(value: Any, bodies: Sequence[dict[str, Any]], rng: random.Random) -> Any:
    """``value`` with one place changed, found by walking down at random."""
    deeper = isinstance(value, (dict, list)) and value and rng.random() < 0.75
    if deeper and isinstance(value, dict):
        key = rng.choice(list(value))
        value[key] = _changed(value[key], bodies, rng)
        return value
    if deeper:
        at = rng.randrange(len(value))
        value[at] = _changed(value[at], bodies, rng)
        return value
    if isinstance(value, dict):
        return _changed_keys(value, bodies, rng)
    if isinstance(value, list) and rng.random() < 0.6:
        return rng.choice((value * rng.choice((0, 2, 40)), [*value, _hostile(rng)]))
    if rng.random() < 0.6 and isinstance(value, (bool, int, float, str)):
        return _tweaked(value, rng)
    return _hostile(rng)


def _tweaked(value: bool | float | str, rng: random.Random) -> Any:
    """A neighbour of a scalar, often of the same type: what gets past the schema."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, rng.randint(0, 40), value * 10**6))
    if isinstance(value, float):
        return rng.choice((rng.uniform(-2, 2), rng.uniform(0, 1), -value, value * 1e9))
    word = "".join(chr(rng.choice((rng.randint(32, 126), rng.randint(0, 0xD7FF)))) for _ in "12345")
    return rng.choice((value * 3, value[::-1], value + "\0", value.upper(), word, value + word))


def _changed_keys(
    value: dict[str, Any], bodies: Sequence[dict[str, Any]], rng: random.Random
) -> Any:
    donor = rng.choice(bodies)
    roll = rng.random()
    if roll < 0.25 and value:
        del value[rng.choice(list(value))]
    elif roll < 0.55:
        key = rng.choice(list(donor))
        value[key] = json.loads(json.dumps(donor[key]))
    elif roll < 0.7:
        value[rng.choice(("x", "", "__proto__", "stream", "dyvte", "n"))] = _hostile(rng)
    elif roll < 0.85 and value:
        value[rng.choice(list(value))] = _hostile(rng)
    elif roll < 0.93:
        for _ in range(rng.choice((4, 40, 120))):
            value = {"a": value}
    else:
        return _hostile(rng)
    return value
