"""Requests and pictures that many tests need."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import httpx
from PIL import Image

CHAT = "/v1/chat/completions"


def body(text: str = "hi", /, **fields: Any) -> dict[str, Any]:
    """A request of one user message."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}


def with_images(*urls: str, **fields: Any) -> dict[str, Any]:
    """A request that shows images and asks."""
    parts: list[dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": url}} for url in urls
    ]
    content = [*parts, {"type": "text", "text": "what?"}]
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """``data`` as a ``data:`` URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


RED = data_url(encoded(Image.new("RGB", (8, 6), "red")))


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream that ends with ``[DONE]``."""
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The streamed text of one choice."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content", "") for c in choices if c["index"] == index)
