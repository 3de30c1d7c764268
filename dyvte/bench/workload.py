"""What is asked of the server: request bodies, made before the clock starts.

Every request has its own words and, with random images, its own picture, so that a prefix or
image cache cannot answer for the model; the seed repeats a run exactly.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

RANDOM = "random"
WORDS = (
    "amber basket bridge candle cloud copper corner desert engine feather field forest garden "
    "glass harbor island kettle lantern marble meadow mirror morning mountain needle ocean "
    "orchard paper pepper pocket quiet river saddle shadow silver spoon station summer thread "
    "tower tunnel valley velvet village window winter yellow"
).split()
QUESTION_WORDS = 12
NOISE_CELLS = 24
MIME = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request.

    ``image`` is a path, "random" (a new picture per request) or None (text only); ``extra`` is
    merged into every body last, so it can also replace what stands here.
    """

    model: str
    max_tokens: int = 64
    image: str | None = RANDOM
    image_size: int = 336
    ignore_eos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def body(self, index: int) -> bytes:
        """JSON of request ``index``. Raises OSError if ``image`` cannot be read."""
        draw = random.Random(f"{self.seed}/{index}")
        question = " ".join(draw.choices(WORDS, k=QUESTION_WORDS)) + "?"
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if self.image is not None:
            url = self._image_url(draw)
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            request["ignore_eos"] = True
        return orjson.dumps(request | dict(self.extra))

    def _image_url(self, draw: random.Random) -> str:
        if self.image == RANDOM:
            return _data_url(noise(draw, self.image_size), "png")
        path = Path(str(self.image))
        return _data_url(path.read_bytes(), MIME.get(path.suffix.lower(), "png"))


def noise(draw: random.Random, size: int) -> bytes:
    """A PNG of ``size`` × ``size`` soft coloured blots: cheap to draw, unlike any other."""
    cells = Image.frombytes("RGB", (NOISE_CELLS,) * 2, draw.randbytes(3 * NOISE_CELLS**2))
    buffer = io.BytesIO()
    cells.resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
