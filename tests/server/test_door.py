"""The door: a full house turns away before it reads, and a place is held from before reading."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import orjson
import pytest
from structlog.testing import capture_logs

from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve, until

RAW = orjson.dumps(body())


def head(size: int) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


@contextmanager
def knocking(url: str, sent: bytes) -> Iterator[socket.socket]:
    """A connection on which ``sent`` was written."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(sent)
        yield client


def reply(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next reply."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += client.recv(65536)
    told, _, rest = got.partition(b"\r\n\r\n")
    length = int(told.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(rest) < length:
        rest += client.recv(65536)
    return told, rest


def refused(url: str) -> int:
    """How many were turned away because the house was full."""
    page = httpx.get(f"{url}/metrics").text
    name = 'dyvte_admission_rejections_total{model_name="demo",reason="queue_full"} '
    return round(float(page.partition(name)[2].split()[0]))


def test_a_full_house_answers_before_the_body_comes_and_keeps_the_connection() -> None:
    with serve(FakeEngine(), max_num_seqs=1, max_waiting=1) as url, ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(knocking(url, head(len(RAW))))
        with knocking(url, head(len(RAW))) as late:
            told, said = reply(late)  # not one byte of its body was sent
            assert told.startswith(b"HTTP/1.1 429")
            assert b"\r\nx-request-id: mine" in told.lower()
            assert b"\r\nretry-after: " in told.lower()
            assert b"\r\nconnection: close" not in told.lower()
            assert orjson.loads(said)["error"]["code"] == "queue_full"
            assert refused(url) == 1
            inside.close()
            until(lambda: httpx.post(url + CHAT, content=RAW).status_code == 200)
            late.sendall(RAW + head(len(RAW)) + RAW)
            assert reply(late)[0].startswith(b"HTTP/1.1 200")


def test_exactly_as_many_bodies_are_read_at_once_as_there_are_places() -> None:
    with serve(FakeEngine(), max_num_seqs=1, max_waiting=1) as url, ExitStack() as outside:
        clients = [outside.enter_context(knocking(url, head(len(RAW)))) for _ in range(30)]
        until(lambda: refused(url) == 28)
        for client in clients:
            client.sendall(RAW)
        codes = sorted(reply(client)[0][9:12] for client in clients)
    assert codes == [b"200"] * 2 + [b"429"] * 28


@pytest.mark.parametrize("sent", [b"{}", b"{", RAW[:-5] + b"}}}}}", b"[" * len(RAW)])
def test_a_place_comes_back_however_its_request_ends(sent: bytes) -> None:
    with serve(FakeEngine(), max_num_seqs=1, max_waiting=0) as url:
        for _ in range(3):
            assert httpx.post(url + CHAT, content=sent).status_code == 400
        with knocking(url, head(len(RAW)) + RAW[:10]):
            until(lambda: httpx.post(url + CHAT, content=RAW).status_code == 429)
        until(lambda: httpx.post(url + CHAT, content=RAW).status_code == 200)


def test_a_refused_body_that_does_not_end_is_cut() -> None:
    house = serve(FakeEngine(), max_num_seqs=1, max_waiting=0, body_timeout=1)
    with house as url, knocking(url, head(1000)), knocking(url, head(1000)) as late:
        assert reply(late)[0].startswith(b"HTTP/1.1 429")
        began = time.monotonic()
        assert late.recv(1) == b""
        assert time.monotonic() - began < 8


def test_a_refused_body_without_length_is_cut_at_the_size_of_any_body() -> None:
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    house = serve(FakeEngine(), max_num_seqs=1, max_waiting=0, max_body=2**20)
    with house as url, knocking(url, head(1000)), knocking(url, chunked) as late:
        assert reply(late)[0].startswith(b"HTTP/1.1 429")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            late.sendall(chunk * 4000)


@pytest.mark.anyio
async def test_a_refusal_is_told_in_log_and_counts(
    connect: Connect,
) -> None:
    engine = FakeEngine(step_s=0.1)
    async with connect(engine, max_num_seqs=1, max_waiting=0) as client:
        inside = asyncio.create_task(client.post(CHAT, json=body()))
        async with asyncio.timeout(20):
            while not engine.running:
                await asyncio.sleep(0.01)
        with capture_logs() as lines:
            late = await client.post(CHAT, json=body(), headers={"x-request-id": "late"})
        assert (await inside).status_code == 200
        page = (await client.get("/metrics")).text
    assert late.status_code == 429
    assert [line["status"] for line in lines if line.get("id") == "late"] == [429]
    counted = f'requests_total{{endpoint="{CHAT}",model_name="demo",status_code="429"}} 1.0'
    assert counted in page


@pytest.mark.anyio
async def test_a_full_house_tells_of_routes_that_are_none(connect: Connect) -> None:
    """A POST that the router answers itself took a place, and in a full house met a 429."""
    engine = FakeEngine(step_s=0.1)
    async with connect(engine, max_num_seqs=1, max_waiting=0) as client:
        inside = asyncio.create_task(client.post(CHAT, json=body()))
        async with asyncio.timeout(20):
            while not engine.running:
                await asyncio.sleep(0.01)
        unknown = await client.post("/v1/embeddings", json={})
        slashed = await client.post(CHAT + "/", json=body())
        misused = await client.post("/v1/models", json={})
        assert (await inside).status_code == 200
    assert (unknown.status_code, slashed.status_code, misused.status_code) == (404, 404, 405)
