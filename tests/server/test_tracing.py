"""Spans of requests: whole, streamed, refused, broken off; and a collector that never answers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from dyvte.errors import RequestFailed
from server.app import create_app
from server.settings import ConfigError, Settings
from server.tracing import LAST_SPANS_S, TraceLayer, Tracing, open_tracing, traced
from tests.server.examples import CHAT, RED, body, events, with_images
from tests.server.fake_engine import FakeEngine

ROOT = Path(__file__).parents[2]
TEXT = "/v1/completions"
PHASES = ["dyvte.preprocess", "dyvte.queue", "dyvte.prefill", "dyvte.decode"]
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        yield client


@asynccontextmanager
async def watched(
    engine: FakeEngine | None = None, **settings: object
) -> AsyncIterator[tuple[httpx.AsyncClient, InMemorySpanExporter]]:
    """A client of an app whose spans are kept in memory."""
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    operator = Settings.model_validate({"drain_timeout": 0.2, **settings})
    app = create_app(operator, lambda: engine or FakeEngine())
    app.add_middleware(TraceLayer, tracing=Tracing(provider))
    async with client_of(app) as client:
        yield client, kept


def whole(kept: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The span of the only request, and its children in order."""
    spans = kept.get_finished_spans()
    (found,) = (span for span in spans if span.kind is SpanKind.SERVER)
    assert found.context is not None
    children = [span for span in spans if span is not found]
    assert {span.parent and span.parent.span_id for span in children} <= {found.context.span_id}
    return found, sorted(children, key=lambda span: span.start_time or 0)


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_with_its_phases_and_its_account(stream: bool) -> None:
    async with watched() as (client, kept):
        more = {"temperature": 0.5, "n": 1, "dyvte": {"aggressiveness": 0.7}}
        asked = with_images(RED, max_tokens=5, stream=stream, **more)
        began = time.time_ns()
        reply = await client.post(CHAT, json=asked)
        ended = time.time_ns()
    last = events(reply)[-1] if stream else reply.json()
    account, span = last["dyvte"], whole(kept)[0]
    told = said(span)
    assert span.name == "chat demo"
    assert span.status.status_code is StatusCode.UNSET
    assert began - 1e6 <= (span.start_time or 0) < (span.end_time or 0) <= ended + 1e6
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "demo"
    assert told["gen_ai.request.stream"] is stream
    assert told["gen_ai.request.max_tokens"] == 5
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.response.id"] == last["id"]
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["http.response.status_code"] == 200
    assert told["dyvte.request_id"] == reply.headers["x-request-id"]
    assert told["dyvte.exit_layer"] == account["exit_layer"] == 2
    assert told["dyvte.aggressiveness"] == 0.7
    for key in ("total", "baseline", "saved", "saved_ratio", "avoided_by_cache"):
        assert told[f"dyvte.flops.{key}"] == account["flops"][key]


async def test_phases_follow_each_other_as_the_account_says() -> None:
    async with watched() as (client, kept):
        timings = (await client.post(CHAT, json=body())).json()["dyvte"]["timings"]
    span, children = whole(kept)
    assert [child.name for child in children] == PHASES
    for before, after in pairwise(children):
        assert before.end_time == pytest.approx(after.start_time, abs=10)
    lasted = [((c.end_time or 0) - (c.start_time or 0)) / 1e6 for c in children]
    keys = ("preprocess_ms", "queue_ms", "prefill_ms", "decode_ms")
    expected = [timings[key] for key in keys]
    expected[2] = 5.0  # admitted to first token, of which the prefill's own steps took 3
    assert lasted == pytest.approx(expected, abs=0.01)
    first, start = children[2].end_time or 0, span.start_time or 0
    assert (first - start) / 1e6 == pytest.approx(timings["ttft_ms"], abs=0.01)


async def test_an_incoming_trace_goes_on() -> None:
    async with watched() as (client, kept):
        await client.post(CHAT, json=body(), headers={"traceparent": SAMPLED})
    span, children = whole(kept)
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
    )
    assert {c.context.trace_id for c in children if c.context} == {span.parent.trace_id}


async def test_an_unsampled_trace_stays_unsampled() -> None:
    async with watched() as (client, kept):
        await client.post(CHAT, json=body(), headers={"traceparent": SAMPLED[:-1] + "0"})
    assert kept.get_finished_spans() == ()


async def test_several_prompts_are_one_span() -> None:
    async with watched() as (client, kept):
        asked = {"model": "demo", "prompt": ["a", "bc"], "max_tokens": 3}
        reply = await client.post(TEXT, json=asked)
    span, children = whole(kept)
    told = said(span)
    assert span.name == "text_completion demo"
    assert told["gen_ai.usage.output_tokens"] == reply.json()["usage"]["completion_tokens"] == 6
    assert told["gen_ai.response.finish_reasons"] == ("length", "length")
    assert sorted(child.name for child in children) == sorted(PHASES + PHASES[1:])


async def test_a_response_is_a_chat_of_its_own_id() -> None:
    async with watched() as (client, kept):
        asked = {"model": "demo", "input": "hi", "stream": True}
        reply = await client.post("/v1/responses", json=asked)
    span, children = whole(kept)
    assert (span.name, said(span)["http.route"]) == ("chat demo", "/v1/responses")
    assert said(span)["gen_ai.response.id"] in reply.text
    assert [child.name for child in children] == PHASES


async def test_refusals_are_told_and_are_no_fault_of_the_server() -> None:
    async with watched() as (client, kept):
        await client.post(CHAT, json=body(temperature=9))
    span, children = whole(kept)
    assert (said(span)["error.type"], said(span)["http.response.status_code"]) == ("400", 400)
    assert (span.name, span.status.status_code) == (f"POST {CHAT}", StatusCode.UNSET)
    assert children == []


@pytest.mark.parametrize(("stream", "fault"), [(False, "500"), (True, "no_answer")])
async def test_faults_are_errors(stream: bool, fault: str) -> None:
    engine = FakeEngine(fail_after=(3, RequestFailed("a step raised", "x")))
    async with watched(engine) as (client, kept):
        await client.post(CHAT, json=body(stream=stream))
    span, _ = whole(kept)
    assert said(span)["error.type"] == fault
    assert span.status.status_code is StatusCode.ERROR


async def test_only_generating_routes_are_traced() -> None:
    async with watched() as (client, kept):
        for path in ("/health", "/metrics", "/v1/models", CHAT):
            await client.get(path)
        await client.post("/tokenize", json={"model": "demo", "prompt": "hi"})
    assert kept.get_finished_spans() == ()


async def test_no_word_of_prompt_answer_or_key_is_in_a_span() -> None:
    engine = FakeEngine(answer=b"oysters")
    async with watched(engine, api_key="sk-walrus") as (client, kept):
        key = {"authorization": "Bearer sk-walrus"}
        asked = with_images(RED, user="carpenter", metadata={"who": "alice"})
        asked["messages"].insert(0, {"role": "system", "content": "cabbages"})
        reply = await client.post(CHAT, json=asked, headers=key)
        refused = await client.post(CHAT, json=body("cabbages", seed="kings"), headers=key)
    assert (reply.status_code, refused.status_code) == (200, 400)
    written = "".join(span.to_json() for span in kept.get_finished_spans())
    secret = ("oysters", "walrus", "carpenter", "alice", "cabbages", "kings", "base64", "what?")
    assert [word for word in secret if word in written] == []


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A collector's URL, and what it was sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("by", ["flag", "whole", "environment"])
async def test_a_collector_gets_the_spans(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with collector() as (url, got):
        flag = {"flag": url + "/", "whole": url + "/v1/traces", "environment": None}[by]
        if by == "environment":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        settings = Settings(otlp_endpoint=flag, drain_timeout=0.2)
        app = create_app(settings, FakeEngine)
        with traced(app, settings):
            async with client_of(app) as client:
                await client.post(CHAT, json=body())
    ((path, data),) = got
    assert path == "/v1/traces"
    (sent,) = ExportTraceServiceRequest.FromString(data).resource_spans
    resource = {each.key: each.value.string_value for each in sent.resource.attributes}
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("dyvte", "test")
    spans = [span.name for scope in sent.scope_spans for span in scope.spans]
    assert sorted(spans) == sorted([*PHASES, "chat demo"])


async def test_a_collector_that_never_answers_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")  # ours is shorter
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = Settings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        app = create_app(settings, FakeEngine)
        with traced(app, settings):
            async with client_of(app) as client:
                asked = (client.post(CHAT, json=body()) for _ in range(60))
                replies = await asyncio.wait_for(asyncio.gather(*asked), 30)
            began = time.monotonic()
        waited = time.monotonic() - began
        for thread in threading.enumerate():
            if thread.name.startswith("OtelBatch"):
                thread.join(10)
    assert {reply.status_code for reply in replies} == {200}
    assert LAST_SPANS_S <= waited < LAST_SPANS_S + 1.5


async def test_a_span_that_cannot_be_written_harms_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("no span")

    monkeypatch.setattr("server.tracing.write_spans", breaks)
    async with watched() as (client, _):
        assert (await client.post(CHAT, json=body())).status_code == 200


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        },
    ],
)
def test_nobody_asks_and_nothing_is_traced(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert open_tracing(Settings(), "1") is None


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    code = (
        "import sys, server.app, server.tracing as t, server.settings as s\n"
        "assert t.open_tracing(s.Settings(), '1') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


def test_without_the_packages_the_flag_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    url = "http://127.0.0.1:4318"
    with pytest.raises(ConfigError) as refused:
        open_tracing(Settings(otlp_endpoint=url), "1")
    told = f"--otlp-endpoint {url}: OpenTelemetry is not installed; pip install 'dyvte[otel]'"
    assert str(refused.value) == told
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    assert open_tracing(Settings(), "1") is None


@pytest.mark.parametrize("url", ["localhost:4318", "grpc://x:4317", "http://", "http://x y"])
def test_an_endpoint_must_be_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="give a URL such as http"):
        Settings(otlp_endpoint=url)
