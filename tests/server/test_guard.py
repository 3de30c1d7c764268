"""Keys, bodies, ids and routes: what is decided before and around every request."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator

import orjson
import pytest

from server.api import body as limits
from server.api import guard
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check
from tests.server.running import serve

pytestmark = pytest.mark.anyio

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/demo"),
    ("POST", CHAT),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/playground/reference.js"),
    ("GET", "/playground/"),
    ("GET", "/playground/nowhere.js"),
    ("GET", "/playground/%2e%2e/%2e%2e/settings.py"),
    ("GET", "/nowhere"),
    ("GET", "/health/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_needs_the_key(connect: Connect, method: str, path: str) -> None:
    async with connect(api_key="right") as client:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}):
            reply = await client.request(method, path, headers=header)
            assert reply.status_code == 401
            check("ErrorResponse", reply.json())
            assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_health_ready_and_metrics_are_open(connect: Connect) -> None:
    async with connect(api_key="right") as client:
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_metrics_need_the_key_if_the_operator_says_so(connect: Connect) -> None:
    async with connect(api_key="right", metrics_key=True) as client:
        assert (await client.get("/metrics")).status_code == 401
    async with connect(metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_each_of_several_keys_opens(connect: Connect) -> None:
    async with connect(api_key="one,two") as client:
        for key in ("one", "two"):
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.post(CHAT, json=body(), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"model": "\xff"}',
        b'{"model": NaN}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a": [' + b"1," * limits.MAX_VALUES + b"1]}",
    ],
    ids=["none", "cut", "list", "string", "utf8", "nan", "2000 deep", "40 deep", "many"],
)
async def test_a_body_that_is_no_sane_object_is_a_400(connect: Connect, raw: bytes) -> None:
    async with connect() as client:
        headers = {"content-type": "application/json"}
        reply = await client.post(CHAT, content=raw, headers=headers)
    assert reply.status_code == 400
    check("ErrorResponse", reply.json())


async def test_another_media_type_is_a_400(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, data={"model": "demo"})
    assert reply.status_code == 400


async def test_a_compressed_body_is_a_400_that_says_so(connect: Connect) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with connect() as client:
        reply = await client.post(CHAT, content=gzip.compress(b"{}"), headers=headers)
    assert reply.status_code == 400
    assert "Content-Encoding" in reply.json()["error"]["message"]


async def test_a_slash_too_many_is_a_404_and_no_redirect(connect: Connect) -> None:
    """A redirect named scheme and host as the client wrote them: http:, behind a proxy's TLS."""
    async with connect() as client:
        for path in (CHAT + "/", "/health/", "/v1/models/demo/"):
            reply = await client.get(path)
            assert (reply.status_code, "location" in reply.headers) == (404, False)


async def test_a_body_too_large_is_a_413_declared_or_not(connect: Connect) -> None:
    raw = orjson.dumps(body("x" * 2000))

    async def dripping() -> AsyncIterator[bytes]:
        for at in range(0, len(raw), 500):
            yield raw[at : at + 500]

    async with connect(max_body=1024) as client:
        declared = await client.post(CHAT, content=raw)
        undeclared = await client.post(CHAT, content=dripping())
        metrics = (await client.get("/metrics")).text
    for reply in (declared, undeclared):
        assert reply.status_code == 413
        assert reply.headers["connection"] == "close"
        check("ErrorResponse", reply.json())
    assert 'rejections_total{model_name="demo",reason="body_too_large"} 2.0' in metrics


async def test_all_bodies_together_fit_the_memory_that_they_may_have(connect: Connect) -> None:
    """Places were bounded and each body was, but not the product of the two."""
    raw = orjson.dumps(body()) + b" " * 3000
    more = asyncio.Event()

    async def halting() -> AsyncIterator[bytes]:
        yield raw[:2500]
        await more.wait()
        yield raw[2500:]

    async with connect(FakeEngine(step_s=0.02), max_bodies=6000) as client:
        first = asyncio.create_task(client.post(CHAT, content=halting()))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(client.post(CHAT, content=halting()))
        await asyncio.sleep(0.1)
        third = await client.post(CHAT, content=raw)
        more.set()
        replies = await asyncio.gather(first, second)
        later = await client.post(CHAT, content=raw)
    assert third.status_code == 429
    check("ErrorResponse", third.json())
    assert sorted(reply.status_code for reply in replies) in ([200, 200], [200, 429])
    assert later.status_code == 200, "what was held has been given back"


async def test_a_body_is_given_back_before_its_answer_begins(connect: Connect) -> None:
    """A long answer does not hold the picture that it is about."""
    raw = orjson.dumps(body()) + b" " * 3000
    engine = FakeEngine(step_s=0.1)
    async with connect(engine, max_bodies=4000) as client:
        first = asyncio.create_task(client.post(CHAT, content=raw))
        async with asyncio.timeout(20):
            while not engine.running:
                await asyncio.sleep(0.01)
        second = await client.post(CHAT, content=raw)
        assert (await first).status_code == second.status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_client_that_is_still_writing_reads_the_413_and_no_reset(declared: bool) -> None:
    """A reply in the middle of a body closed the connection, and the reason was lost with it."""
    size = 16 * 2**20
    how = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{how}\r\n\r\n"
    framed = b" " * size if declared else b"%x\r\n" % size + b" " * size + b"\r\n0\r\n\r\n"
    with serve(FakeEngine(), max_body=2**16) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as writer:
            writer.sendall(head.encode() + framed)
            assert writer.recv(12) == b"HTTP/1.1 413"


async def test_a_refused_body_without_end_is_not_read_for_long(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b" " * 2048
        await asyncio.sleep(5)
        raise AssertionError("nobody should wait for more")

    async with connect(max_body=1024) as client:
        began = time.monotonic()
        reply = await client.post(CHAT, content=endless())
    assert reply.status_code == 413
    assert time.monotonic() - began < 4


async def test_a_body_that_drips_is_a_408(connect: Connect) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1)

    async with connect(body_timeout=0.05) as client:
        reply = await client.post(CHAT, content=stalled())
    assert reply.status_code == 408


async def test_wrong_routes_and_methods_speak_openais_form(connect: Connect) -> None:
    async with connect() as client:
        lost = await client.get("/v1/nowhere")
        wrong = await client.get(CHAT)
    assert (lost.status_code, wrong.status_code) == (404, 405)
    assert wrong.headers["allow"] == "POST"
    for reply in (lost, wrong):
        check("ErrorResponse", reply.json())


async def test_every_response_carries_a_request_id(connect: Connect) -> None:
    async with connect(api_key="k") as client:
        for path in ("/health", "/nowhere", CHAT):
            assert (await client.get(path)).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3_4", True), ("x" * 129, False), ("a b", False), ("a{}", False)]
)
async def test_a_sane_request_id_is_kept(connect: Connect, given: str, kept: bool) -> None:
    async with connect() as client:
        reply = await client.get("/health", headers={"x-request-id": given})
    assert (reply.headers["x-request-id"] == given) is kept


async def test_browsers_may_call_from_the_origins_named(connect: Connect) -> None:
    ask = {"origin": "https://a.example", "access-control-request-method": "POST"}
    async with connect(cors_origins="https://a.example", api_key="k") as client:
        asked = await client.options(CHAT, headers=ask)
        told = await client.get("/health", headers={"origin": "https://a.example"})
        other = await client.get("/health", headers={"origin": "https://b.example"})
    assert asked.status_code == 200
    assert told.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in other.headers


async def test_a_log_line_tells_the_fate_and_never_the_prompt(
    connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connect(FakeEngine(fail_after=(1, KeyError("x"))), api_key="sesame") as client:
        headers = {"authorization": "Bearer sesame", "x-request-id": "find-me"}
        await client.post(CHAT, json=body("a private question"), headers=headers)
    log = capsys.readouterr().out
    assert "find-me" in log
    assert "status=500" in log
    assert "private" not in log
    assert "sesame" not in log


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/responses/x", "DELETE, GET"), (CHAT, "POST"), ("/health", "GET, HEAD")],
)
async def test_a_wrong_method_is_told_all_that_are_right(
    connect: Connect, path: str, methods: str
) -> None:
    async with connect() as client:
        reply = await client.patch(path)
    assert (reply.status_code, reply.headers["allow"]) == (405, methods)
