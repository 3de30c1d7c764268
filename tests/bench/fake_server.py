"""A chat server of forty lines: streams words at a pace, and fails when a prompt says so.

The double of the HTTP seam for the load generator: a plain ASGI app, run by uvicorn in a thread,
so that chunks really arrive one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class FakeServer:
    """``requests`` keeps the bodies that came; ``most_at_once`` how many were open together."""

    key: str = "none"
    first_s: float = 0.02
    gap_s: float = 0.005
    usage: bool = True
    dyvte: dict[str, Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    open_now: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if headers[b"authorization"] != f"Bearer {self.key}".encode():
            await reply(send, 401, {"error": {"message": "wrong key"}})
        elif scope["path"] == "/v1/models":
            await reply(send, 200, {"data": [{"id": "fake"}, {"id": "fake:off"}]})
        else:
            await self.chat(receive, send)

    async def chat(self, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body)
        self.requests.append(request)
        if request["model"] == "full":
            await reply(send, 429, {"error": {"message": "queue full"}})
            return
        self.open_now += 1
        self.most_at_once = max(self.most_at_once, self.open_now)
        await self.stream(request, send)
        self.open_now -= 1

    async def stream(self, request: dict[str, Any], send: Send) -> None:
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})

        async def event(data: str) -> None:
            chunk = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        def choice(delta: dict[str, Any], finish: str | None = None) -> str:
            return json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]})

        await event(choice({"role": "assistant", "content": ""}))
        tokens = 0 if request["model"] == "mute" else request["max_tokens"]
        for k in range(tokens):
            await asyncio.sleep(self.gap_s if k else self.first_s)
            await event(choice({"content": f" word{k}"}))
            if request["model"] == "breaks":
                await event(json.dumps({"error": {"message": "the step raised"}}))
                tokens = 0
                break
        if request["model"] != "breaks":
            await event(choice({}, "stop"))
            last: dict[str, Any] = {"choices": []}
            if self.usage:
                last["usage"] = {"prompt_tokens": 620, "completion_tokens": tokens}
            if self.dyvte is not None:
                last["dyvte"] = self.dyvte
            await event(json.dumps(last))
        await event("[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def reply(send: Send, status: int, body: dict[str, Any]) -> None:
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": status, "headers": [kind]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@contextlib.contextmanager
def running(app: FakeServer) -> Iterator[str]:
    """Serve ``app`` on a free port; yield the base URL."""
    config = uvicorn.Config(
        app,
        port=0,
        lifespan="off",
        ws="none",
        log_level="critical",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the fake server did not start"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
