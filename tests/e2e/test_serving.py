"""The whole way: HTTP in, tokens out, against a real process and with the official client."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

import dyvte
from tests.e2e.conftest import MODEL, Server, started
from tests.e2e.pictures import ask, png, url

EXITS: list[dict[str, Any]] = [
    {"policy": "off"},
    *({"aggressiveness": a} for a in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)),
    *({"policy": "fixed", "exit_layer": layer} for layer in range(4)),
    *({"aggressiveness": 0.5, "min_layer": layer} for layer in (1, 2)),
    {"aggressiveness": 1.0, "min_layer": 2, "max_layer": 3},
    {"aggressiveness": 0.6, "report": "full"},
    {"policy": "off", "prune": {"method": "fastv", "layer": 1, "ratio": 0.6}},
    {"aggressiveness": 0.5, "prune": {"method": "pyramiddrop", "ratio": 0.4}, "report": "full"},
]


def _stream(server: Server, index: int) -> tuple[str, dict[str, Any]]:
    """One streamed answer of request ``index`` and its account."""
    text = ""
    account: dict[str, Any] = {}
    chat: Any = server.client.chat.completions  # its overloads reject messages as plain data
    with chat.create(
        model=MODEL,
        messages=ask(f"question number {index}", png(seed=index)),
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"dyvte": EXITS[index], "ignore_eos": True},
    ) as chunks:
        for chunk in chunks:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            account = (chunk.model_extra or {}).get("dyvte") or account
    return text, account


def test_streams_with_their_own_exits_get_the_tokens_they_get_alone(
    server: Server,
) -> None:
    alone = [_stream(server, index) for index in range(len(EXITS))]
    with ThreadPoolExecutor(len(EXITS)) as pool:
        together = list(pool.map(lambda index: _stream(server, index), range(len(EXITS))))
    assert [text for text, _ in together] == [text for text, _ in alone]
    exits = [account["exit_layer"] for _, account in together]
    assert exits == [account["exit_layer"] for _, account in alone]
    assert len(set(exits)) > 2, "the requests were meant to leave at different layers"
    assert [account["prune"] for _, account in together[-2:]] == ["fastv", "pyramiddrop"]
    assert together[-1][1]["visual_tokens_kept"][0] == [1, 5]


def test_the_server_answers_what_the_library_answers(
    server: Server, tiny_model: dyvte.Model
) -> None:
    text, account = _stream(server, 4)
    picture = Image.open(io.BytesIO(png(seed=4)))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "question number 4"}]
    result = dyvte.generate(
        tiny_model,
        tiny_model.prompt([{"role": "user", "content": parts}]),
        dyvte.SamplingParams(max_tokens=12, temperature=0, ignore_eos=True),
        dyvte.ExitOptions(aggressiveness=0.5),
    )[0]
    assert text == result.text
    assert account["exit_layer"] == result.exit_layer
    assert account["flops"]["total"] == result.flops.total


def test_a_client_that_goes_away_frees_its_pages(server: Server) -> None:
    body = {
        "model": MODEL,
        "messages": ask("tell me everything", png()),
        "max_tokens": 200,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=body) as reply:
        next(reply.iter_lines())
    deadline = time.monotonic() + 10
    while server.metric("dyvte_kv_cache_usage_ratio") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric("dyvte_kv_cache_usage_ratio") == 0
    assert server.metric("dyvte_requests_running") == 0


@pytest.mark.parametrize("broken", [b"", b"not a picture", png()[:60]])
def test_a_broken_picture_is_a_400_and_the_server_goes_on(server: Server, broken: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        _complete(server, ask("what is it?", broken))
    assert "messages[0].content[0]" in str(refused.value.param)
    assert _complete(server, ask("what is it?", png())).choices[0].finish_reason


@pytest.mark.parametrize("size", [(1, 1), (5000, 4000)])
def test_the_smallest_and_a_twenty_megapixel_picture_are_answered(
    server: Server, size: tuple[int, int]
) -> None:
    reply = _complete(server, ask("what is it?", png(size)))
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 3


def test_an_image_tag_typed_by_a_user_is_plain_text(server: Server) -> None:
    reply = _complete(server, ask("is <image> a tag? </s>", png()))
    assert reply.model_extra is not None
    assert reply.model_extra["dyvte"]["visual_tokens"] == 9


def test_two_pictures_text_only_and_a_conversation_are_answered(server: Server) -> None:
    two = _complete(server, ask("which is larger?", png((40, 30)), png((90, 20), seed=3)))
    assert two.model_extra is not None
    assert two.model_extra["dyvte"]["visual_tokens"] == 18
    none = _complete(server, [{"role": "user", "content": "hello"}])
    assert none.model_extra is not None
    assert none.model_extra["dyvte"]["exit_layer"] is None
    turns = [
        {"role": "system", "content": "be brief"},
        *ask("what is it?", png()),
        {"role": "assistant", "content": "a flag"},
        {"role": "user", "content": "of what colour?"},
    ]
    assert _complete(server, turns).choices[0].message.role == "assistant"


def test_an_unknown_field_inside_dyvte_is_named(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        _complete(server, ask("what is it?", png()), extra_body={"dyvte": {"agressiveness": 1}})
    assert refused.value.param == "dyvte.agressiveness"


def test_a_prompt_that_is_too_long_is_a_400_with_the_numbers(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="256") as refused:
        _complete(server, [{"role": "user", "content": "word " * 200}])
    assert refused.value.code == "context_length_exceeded"


def test_savings_add_up_in_metrics(server: Server) -> None:
    name = "dyvte_flops_saved_total"
    before = server.metric(name)
    options = {"dyvte": {"policy": "fixed", "exit_layer": 0}}
    reply = _complete(server, ask("what is it?", png()), extra_body=options)
    assert reply.model_extra is not None
    saved = reply.model_extra["dyvte"]["flops"]["saved"]
    assert server.metric(name) - before == pytest.approx(saved)


def test_sigterm_lets_a_running_stream_end_and_refuses_newcomers(tiny_folder: Path) -> None:
    body = {
        "model": MODEL,
        "messages": ask("count", png()),
        "max_tokens": 150,
        "ignore_eos": True,
        "stream": True,
    }
    with started(tiny_folder, "--drain-timeout", "20") as server:
        with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.terminate()
            rest = [line for line in lines if line.startswith("data:")]
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(timeout=20) == 0


def _complete(server: Server, messages: list[dict[str, Any]], **extra: Any) -> Any:
    extra_body = {"ignore_eos": True, **extra.pop("extra_body", {})}
    chat: Any = server.client.chat.completions
    return chat.create(
        model=MODEL,
        messages=messages,
        max_tokens=3,
        temperature=0,
        extra_body=extra_body,
        **extra,
    )


def test_a_data_url_of_another_kind_is_refused(server: Server) -> None:
    content = [{"type": "image_url", "image_url": {"url": url(b"<svg/>", "image/svg+xml")}}]
    with pytest.raises(openai.BadRequestError):
        _complete(server, [{"role": "user", "content": content}])
