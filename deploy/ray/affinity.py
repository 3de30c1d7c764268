"""Which requests belong together: a key from the body of a chat request.

Knows nothing of Ray. Replicas keep what they computed for an image, so what counts is the image;
and a conversation grows at its end, so its first image is what all of its requests share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from server.api.body import parse_object
from server.api.errors import ApiError

KEY_BYTES = 16


def image_key(body: bytes) -> str:
    """Digest of the URL of the request's first image; "" where there is none.

    A body that is no chat request has no key either: the replica says what is wrong with it.
    """
    try:
        request = parse_object(body)
    except ApiError:
        return ""
    url = next(_image_urls(request), None)
    if url is None:
        return ""
    return hashlib.blake2b(url.encode(), digest_size=KEY_BYTES).hexdigest()


def _image_urls(request: dict[str, Any]) -> Iterator[str]:
    for message in _objects(request.get("messages")):
        for part in _objects(message.get("content")):
            image = part.get("image_url")
            if isinstance(image, dict) and isinstance(image.get("url"), str):
                yield image["url"]


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
