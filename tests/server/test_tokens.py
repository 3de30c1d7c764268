"""Text as ids and back, in vLLM's shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

import dyvte
from tests import tiny
from tests.server.conftest import Connect
from tests.server.examples import RED, body, with_images
from tests.server.fake_engine import IMAGE_ROWS, FakeEngine

pytestmark = pytest.mark.anyio


async def test_a_prompt_is_tokenised(connect: Connect) -> None:
    async with connect() as client:
        reply = (await client.post("/tokenize", json={"prompt": "hi"})).json()
        bare = {"model": "demo", "prompt": "hi", "add_special_tokens": False}
        strings = {**bare, "return_token_strs": True}
        assert (await client.post("/tokenize", json=bare)).json()["tokens"] == [104, 105]
        assert (await client.post("/tokenize", json=strings)).json()["token_strs"] == ["h", "i"]
    assert reply == {"count": 3, "max_model_len": 512, "tokens": [1, 104, 105], "token_strs": None}


async def test_messages_are_tokenised_as_a_chat_takes_them(connect: Connect) -> None:
    async with connect() as client:
        text = (await client.post("/tokenize", json=body("hi"))).json()
        picture = (await client.post("/tokenize", json=with_images(RED))).json()
    assert text["tokens"] == [104, 105]
    assert picture["tokens"].count(dyvte.IMAGE) == 1
    assert picture["count"] == len(picture["tokens"]) - 1 + IMAGE_ROWS


async def test_ids_become_text(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/detokenize", json={"model": "demo", "tokens": [1, 104, 105]})
    assert reply.json() == {"prompt": "<s>hi"}


@pytest.mark.parametrize(
    ("url", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "hi", "messages": body()["messages"]}, "prompt"),
        ("/tokenize", {"prompt": "", "add_special_tokens": False}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "x": 1}, "x"),
        ("/tokenize", {"messages": [], "model": "demo"}, "messages"),
        ("/detokenize", {"tokens": [256]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(
    connect: Connect, url: str, fields: dict[str, Any], param: str
) -> None:
    async with connect() as client:
        reply = await client.post(url, json=fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


async def test_a_model_that_is_not_served_is_not_found(connect: Connect) -> None:
    async with connect() as client:
        for url, fields in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            reply = await client.post(url, json={"model": "nobody", **fields})
            assert reply.status_code == 404


def test_typed_specials_stay_characters(tiny_model: dyvte.Model) -> None:
    ids = tiny_model.tokenize("</s><image>ü")
    assert not set(ids) & set(range(len(tiny.SPECIALS)))
    assert tiny_model.detokenize(ids) == "</s><image>ü"
    assert tiny_model.detokenize([tiny.BOS, *ids[:1]]) == "<s><"


class Slow(FakeEngine):
    """Takes its time with text."""

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        time.sleep(0.2)
        return super().tokenize(text, special)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        time.sleep(0.2)
        return super().detokenize(token_ids)


@pytest.mark.parametrize(
    ("url", "asked"), [("/tokenize", {"prompt": "hi"}), ("/detokenize", {"tokens": [104]})]
)
async def test_what_is_asked_for_in_time_comes_in_time_or_is_a_408(
    connect: Connect, url: str, asked: dict[str, Any]
) -> None:
    async with connect(Slow()) as client:
        late = await client.post(url, json=asked, headers={"x-request-timeout": "0.02"})
        fine = await client.post(url, json=asked, headers={"x-request-timeout": "60"})
        wrong = await client.post(url, json=asked, headers={"x-request-timeout": "soon"})
    assert (late.status_code, fine.status_code, wrong.status_code) == (408, 200, 400)
    assert late.headers["x-should-retry"] == "false"
