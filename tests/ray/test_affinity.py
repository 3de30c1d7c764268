"""The key that sends a request to the replica that has its image."""

from __future__ import annotations

import json
from typing import Any

from deploy.ray.affinity import image_key
from tests.server.examples import RED, body, with_images

BLUE = RED.replace("iVBOR", "iVBOS")


def key(request: dict[str, Any]) -> str:
    return image_key(json.dumps(request).encode())


def test_the_image_decides_and_not_the_question() -> None:
    asked = with_images(RED, max_tokens=1)
    otherwise = with_images(RED, temperature=0, stream=True)
    assert key(asked) == key(otherwise) != ""


def test_another_image_has_another_key() -> None:
    assert key(with_images(RED)) != key(with_images(BLUE))


def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    first = with_images(RED)
    answer = {"role": "assistant", "content": "red"}
    more = [*first["messages"], answer, *with_images(BLUE)["messages"]]
    assert key({**first, "messages": more}) == key(first)


def test_text_alone_has_no_key() -> None:
    assert key(body("hi")) == ""


def test_what_is_no_chat_request_has_no_key() -> None:
    shapes = ["", "{", "[]", "{}", '{"messages": 3}', '{"messages": [3, {"content": [3]}]}']
    part = '{"type": "image_url", "image_url": %s}'
    parts = [f'{{"messages": [{{"content": [{part % url}]}}]}}' for url in ("3", '{"url": 3}')]
    assert {image_key(text.encode()) for text in (*shapes, *parts)} == {""}
