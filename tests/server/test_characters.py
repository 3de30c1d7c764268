"""Text that cannot fit is refused by its length, before a tokenizer sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dyvte.prompt import Message, Prompt
from dyvte.tools import Tool
from server.characters import PER_TOKEN, characters
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.openai_schema import check

LONG = "a" * (INFO.max_model_len * PER_TOKEN + 1)


class Unasked(FakeEngine):
    """Fails where a text is tokenised."""

    def prepare(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        raise AssertionError("tokenised")

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        raise AssertionError("tokenised")


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize(
    ("path", "asked", "param"),
    [
        (CHAT, body(LONG), "messages"),
        (CHAT, body(tools=[tool(description=LONG)]), "messages"),
        (CHAT, body(tools=[tool(parameters={"type": "object", LONG: 1})]), "messages"),
        ("/v1/responses", {"model": "demo", "input": LONG}, "input"),
        ("/v1/completions", {"model": "demo", "prompt": ["a", LONG]}, "prompt"),
        ("/tokenize", {"prompt": LONG}, "prompt"),
    ],
    ids=["message", "description", "key", "response", "completion", "tokenize"],
)
@pytest.mark.anyio
async def test_a_text_that_cannot_fit_is_never_tokenised(
    connect: Connect, path: str, asked: Mapping[str, Any], param: str
) -> None:
    """56 MiB of words kept a worker busy for minutes, and took nine gigabytes."""
    engine = Unasked() if "completions" not in path or path == CHAT else FakeEngine()
    async with connect(engine) as client:
        reply = await client.post(path, json=asked)
    assert reply.status_code == 400
    check("ErrorResponse", reply.json())
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert f"takes {INFO.max_model_len * PER_TOKEN} at most" in error["message"]


def test_all_strings_count_and_nothing_else() -> None:
    assert characters(({"role": "user", "content": [{"text": "abc"}, 7, None]}, "de")) == 24
