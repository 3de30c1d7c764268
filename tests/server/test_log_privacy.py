"""What the log of a server must never hold: what people ask, show and are told, and their keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import structlog
from PIL import Image

from dyvte.errors import PromptError, RequestFailed
from server.logs import configure_logs
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body, data_url, encoded, with_images
from tests.server.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

PICTURE = data_url(encoded(Image.effect_noise((64, 64), 90)))
PRIVATE = {
    "prompt": "my-private-question",
    "answer": "my-private-answer",
    "key": "sk-my-private-key",
    "picture": PICTURE[2000:2060],
    "address": "my-private-host.example",
    "signature": "my-private-signature",
    "user": "my-private-name",
}


@pytest.fixture(params=["info", "debug"])
def log(request: pytest.FixtureRequest) -> Iterator[StringIO]:
    """All that the process logs, configured as the server does it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    structlog.reset_defaults()
    configure_logs(request.param, "json")
    structlog.configure(cache_logger_on_first_use=False)  # loggers outlive this test
    written = StringIO()
    [handler] = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("engine", "stream"),
    [
        ({"answer": PRIVATE["answer"].encode()}, False),
        ({"answer": PRIVATE["answer"].encode()}, True),
        ({"fail_after": (3, RequestFailed("failed", "r"))}, True),
        ({"fail_after": (3, ValueError("a fault"))}, False),
        ({"fail_submit": PromptError("does not fit")}, False),
    ],
    ids=["whole", "stream", "stream fails", "fault", "refused"],
)
async def test_no_log_line_holds_what_is_private(
    connect: Connect, log: StringIO, engine: dict[str, Any], stream: bool
) -> None:
    headers = {"authorization": f"Bearer {PRIVATE['key']}", "x-request-id": "find-me"}
    remote = f"https://{PRIVATE['address']}/a.png?signature={PRIVATE['signature']}"
    asked = with_images(PICTURE, stream=stream, user=PRIVATE["user"])
    asked["messages"][0]["content"][-1]["text"] = PRIVATE["prompt"]
    wrong = body(PRIVATE["prompt"], unknown=PRIVATE["prompt"], temperature=PRIVATE["prompt"])
    async with connect(
        FakeEngine(**engine),
        api_key=PRIVATE["key"],
        image_hosts=PRIVATE["address"],
        image_timeout=0.2,
    ) as client:
        await client.post(CHAT, json=asked, headers=headers)
        await client.post(CHAT, json=with_images(remote), headers=headers)
        await client.post(CHAT, json=wrong, headers=headers)
        await client.get("/v1/models/" + "x" * 9, headers={"authorization": PRIVATE["key"]})
    text = log.getvalue()
    found = [name for name, value in PRIVATE.items() if value in text]
    assert found == []
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("event") == "request"]
    assert [line["id"] for line in told[:3]] == ["find-me"] * 3
    assert {"status", "ms", "method", "path"} <= told[0].keys()
