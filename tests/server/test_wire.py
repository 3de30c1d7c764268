"""Over a real socket: the official client, leaving clients, stalling clients, slow heads."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionContentPartParam

from dyvte.errors import RequestFailed
from tests.server.examples import CHAT, RED, body
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.running import serve, until

QUESTION: list[ChatCompletionContentPartParam] = [
    {"type": "image_url", "image_url": {"url": RED}},
    {"type": "text", "text": "What is this?"},
]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with serve(engine) as at:
        yield at


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_official_client_reads_a_whole_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"dyvte": {"policy": "fixed", "exit_layer": 1}},
    )
    assert reply.choices[0].message.content == "Hello, world."
    assert reply.model_extra is not None
    assert reply.model_extra["dyvte"]["exit_layer"] == 1


def test_the_official_client_reads_a_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello, world."
    assert chunks[-1].usage is not None
    assert (chunks[-1].model_extra or {})["dyvte"]["exit_layer"] == 2


def test_the_official_client_lists_models(client: openai.OpenAI) -> None:
    assert next(iter(client.models.list())).id == "demo"


def test_the_official_client_raises_what_we_mean(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"dyvte": {"depth": 3}},
        )
    assert bad.value.param == "dyvte.depth"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_an_error_in_a_stream_reaches_the_official_client() -> None:
    engine = FakeEngine(fail_after=(3, RequestFailed("x", "y")))
    with (
        serve(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with stream, pytest.raises(openai.APIError, match="could not finish"):
            list(stream)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(stream: bool) -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.02)
    with serve(engine) as url:
        host = urlsplit(url)
        with socket.create_connection((host.hostname, host.port)) as raw:
            raw.sendall(post(body(stream=stream)))
            until(lambda: engine.running)
        until(lambda: engine.aborted, seconds=2)
        assert not engine.running
        count = '{endpoint="/v1/chat/completions",model_name="demo",status_code="499"} 1.0'
        until(lambda: count in httpx.get(f"{url}/metrics").text, seconds=2)


def test_a_reader_that_stalls_ends_its_request() -> None:
    engine = FakeEngine(answer=b"x" * 500_000, info=replace(INFO, max_model_len=10**6))
    with serve(engine, write_timeout=0.2) as url:
        host = urlsplit(url)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with raw:
            raw.connect((host.hostname, host.port))
            raw.sendall(post(body(stream=True)))
            until(lambda: engine.aborted, seconds=20)


def test_many_streams_run_side_by_side(url: str) -> None:
    async def ask(client: openai.AsyncOpenAI, index: int) -> str:
        stream = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": str(index)}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, index) for index in range(16)))

    assert asyncio.run(all_of_them()) == ["Hello, world."] * 16


def test_a_head_that_drips_is_closed() -> None:
    with serve(FakeEngine(), header_timeout=0.2) as url:
        host = urlsplit(url)
        with socket.create_connection((host.hostname, host.port), timeout=5) as raw:
            raw.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            began = time.monotonic()
            assert raw.recv(100) == b""
            assert time.monotonic() - began < 3


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * 300_000, b"X-A: a\r\n" * 40_000])
def test_a_head_that_never_ends_is_refused(url: str, head: bytes) -> None:
    host = urlsplit(url)
    with socket.create_connection((host.hostname, host.port), timeout=5) as raw:
        try:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n" + head)
            answer = raw.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{url}/health").status_code == 200


MALFORMED = {
    "no http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "version": b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    "header": b"GET /health HTTP/1.1\r\nHo st: a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{} and more\r\n\r\n",
}


def everything(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_a_400_in_openais_form_with_an_id(url: str, sent: bytes) -> None:
    host = urlsplit(url)
    with socket.create_connection((host.hostname, host.port), timeout=5) as raw:
        raw.sendall(sent)
        head, _, said = everything(raw).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(said))
    assert headers["connection"] == "close"
    assert headers["x-request-id"].startswith("req_")
    error = {"message": "Invalid HTTP request received.", "type": "invalid_request_error"}
    assert json.loads(said) == {"error": {**error, "param": None, "code": None}}
    assert httpx.get(f"{url}/health").status_code == 200


def test_what_is_no_http_is_counted() -> None:
    with serve(FakeEngine()) as url:
        host = urlsplit(url)
        for sent in MALFORMED.values():
            with socket.create_connection((host.hostname, host.port), timeout=5) as raw:
                raw.sendall(sent)
                assert everything(raw).startswith(b"HTTP/1.1 400")
        page = httpx.get(f"{url}/metrics").text
    [line] = [each for each in page.splitlines() if counted(each, "other", "400")]
    assert float(line.split()[-1]) == len(MALFORMED)


def counted(line: str, endpoint: str, status: str) -> bool:
    labels = (f'endpoint="{endpoint}"', f'status_code="{status}"')
    return line.startswith("dyvte_requests_total{") and all(each in line for each in labels)


def test_what_is_no_http_behind_a_request_never_lands_in_its_stream() -> None:
    engine = FakeEngine(answer=b"x" * 400, step_s=0.02)
    with serve(engine) as url:
        host = urlsplit(url)
        with socket.create_connection((host.hostname, host.port), timeout=5) as raw:
            raw.sendall(post(body(stream=True)))
            said = raw.recv(65536)
            raw.sendall(b"hello\r\n\r\n")
            said += everything(raw)
        until(lambda: engine.aborted, seconds=2)
    assert said.count(b"HTTP/1.1") == 1
    assert b"Invalid HTTP" not in said


def post(raw: dict[str, object]) -> bytes:
    """The request as bytes."""
    payload = json.dumps(raw).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(payload) + payload
