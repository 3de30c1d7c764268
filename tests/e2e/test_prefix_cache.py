"""What a client and /metrics see of a prefix that an earlier question left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import tiny
from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["64MiB", "0"])
async def client(request: pytest.FixtureRequest, tiny_folder: Path) -> AsyncIterator[Any]:
    settings = {"model": str(tiny_folder), "served_model_name": "tiny"}
    async with connected(**settings, prefix_cache_memory=request.param) as made:
        yield made, request.param != "0"


async def test_five_questions_of_a_conversation_share_their_picture(
    client: tuple[httpx.AsyncClient, bool],
) -> None:
    """The picture is in the first turn; what follows it is computed again."""
    http, keeps = client
    messages = ask("what is it?", png(seed=1))
    cached, replies = [], []
    for turn in range(5):
        asked = {"model": "tiny", "messages": messages, "max_tokens": 3, "temperature": 0}
        asked["dyvte"] = {"policy": "fixed", "exit_layer": turn % tiny.LAYERS}
        reply = (await http.post("/v1/chat/completions", json=asked)).json()
        cached.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"])
        replies.append(reply["dyvte"]["flops"])
        messages += [reply["choices"][0]["message"], {"role": "user", "content": f"turn {turn}?"}]
    assert (cached[0], len(set(cached[1:]))) == (0, 1)
    assert (cached[1] > tiny.VISUAL) is keeps
    assert all((each["avoided_by_cache"] > each["vision"]) is keeps for each in replies[1:])
    page = (await http.get("/metrics")).text
    for name, count in (("queries", 5), ("hits", 4)):
        labels = '{cache="prefix",model_name="tiny"}'
        assert f"dyvte_cache_{name}_total{labels} {float(count * keeps)}" in page
