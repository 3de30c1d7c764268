"""Pictures as a client sends them."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def png(size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
    """A PNG whose colours depend on ``seed``."""
    colour = ((seed * 53) % 256, (seed * 101) % 256, (seed * 197) % 256)
    image = Image.new("RGB", size, colour)
    image.paste((255 - colour[0], 20, 200), (0, 0, max(1, size[0] // 2), max(1, size[1] // 3)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def url(data: bytes, mime: str = "image/png") -> str:
    """A data URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def ask(text: str, *pictures: bytes) -> list[dict[str, Any]]:
    """One user message."""
    images = [{"type": "image_url", "image_url": {"url": url(data)}} for data in pictures]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
