"""A client that stops reading costs a bounded buffer for a bounded time, and nobody else at all."""

from __future__ import annotations

import json
import socket
import time

import httpx

from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve, until

FAT = {"logprobs": True, "top_logprobs": 20}


def stall(url: str, raw: dict[str, object]) -> socket.socket:
    """Ask for a stream, read its beginning, and never again."""
    host, port = url.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    payload = json.dumps(raw).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
    reader.sendall(head.encode() + payload)
    assert reader.recv(15) == b"HTTP/1.1 200 OK"
    return reader


def test_a_reader_who_stalls_is_cut_off_and_the_engine_told() -> None:
    engine = FakeEngine(answer=b"x" * 20_000)
    with serve(engine, write_timeout=0.4) as url, stall(url, body(stream=True, **FAT)):
        until(lambda: len(engine.aborted) == 1, seconds=60)
        assert not engine.running
        began = time.monotonic()
        reply = httpx.post(url + CHAT, json=body(max_tokens=5), timeout=30)
        assert reply.status_code == 200
        assert time.monotonic() - began < 10


def test_a_stalled_reader_holds_no_more_than_the_socket_takes() -> None:
    """The source is not drawn on while its reader stalls: the rest of the answer is never made."""
    engine = FakeEngine(answer=b"x" * 20_000)
    with serve(engine, write_timeout=60) as url, stall(url, body(stream=True, **FAT)):
        until(lambda: standing_still(engine), seconds=60)
        assert engine.running, "it still waits for its reader"
        assert engine.given < 20_000


def standing_still(engine: FakeEngine) -> bool:
    before = engine.given
    time.sleep(0.5)
    return engine.given == before > 0
