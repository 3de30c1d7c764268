"""Whole answers: OpenAI's object to the letter, with the account beside it."""

from __future__ import annotations

import httpx
import pytest

from dyvte.errors import RequestFailed
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, body, with_images
from tests.server.fake_engine import IMAGE_ROWS, NUM_LAYERS, FakeEngine
from tests.server.openai_schema import check

pytestmark = pytest.mark.anyio

FLOPS = {
    "total", "baseline", "saved", "saved_ratio", "vision", "prefill", "decode", "gates", "head",
    "executed", "avoided_by_cache",
}  # fmt: skip
TIMINGS = {
    "queue_ms", "preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_ms", "total_ms",
}  # fmt: skip
ACCOUNT = {
    "policy", "aggressiveness", "exit_layer", "num_layers", "visual_tokens", "flops", "kv_bytes",
    "kv_bytes_saved", "timings",
}  # fmt: skip


async def test_the_reply_is_openais_object(connect: Connect) -> None:
    async with connect() as client:
        reply = (await client.post(CHAT, json=with_images(RED, n=2, logprobs=True))).json()
    check("CreateChatCompletionResponse", reply)
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["Hello, world."] * 2
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}
    assert reply["choices"][0]["message"]["refusal"] is None


async def test_usage_counts_visual_tokens_whatever_the_exit(connect: Connect) -> None:
    async with connect() as client:
        usages = [
            (await client.post(CHAT, json=with_images(RED, dyvte=d))).json()["usage"]
            for d in ({"policy": "off"}, {"policy": "fixed", "exit_layer": 0})
        ]
    assert usages[0] == usages[1]
    assert usages[0]["prompt_tokens"] == IMAGE_ROWS + len("what?")
    assert usages[0]["prompt_tokens_details"]["image_tokens"] == IMAGE_ROWS
    assert usages[0]["prompt_tokens_details"]["cached_tokens"] == 0
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + len("Hello, world.")


async def test_the_account_is_as_the_contract_says(connect: Connect) -> None:
    async with connect() as client:
        account = (await client.post(CHAT, json=with_images(RED))).json()["dyvte"]
    assert account.keys() == ACCOUNT
    assert account["flops"].keys() == FLOPS
    assert account["timings"].keys() == TIMINGS
    assert (account["policy"], account["aggressiveness"]) == ("gate", 0.5)
    assert (account["exit_layer"], account["num_layers"]) == (2, NUM_LAYERS)
    assert account["visual_tokens"] == IMAGE_ROWS
    assert account["flops"]["saved"] == account["flops"]["baseline"] - account["flops"]["total"]


async def test_report_says_how_much_to_tell(connect: Connect) -> None:
    async with connect() as client:
        none, full = [
            (await client.post(CHAT, json=with_images(RED, dyvte={"report": report}))).json()
            for report in ("none", "full")
        ]
    assert "dyvte" not in none
    assert full["dyvte"].keys() - ACCOUNT == {
        "tokens_per_layer",
        "kv_tokens_per_layer",
        "gate_logits",
    }
    assert full["dyvte"]["gate_logits"] == [[0.5, -0.5], [None, 1.0]]


async def test_the_values_in_force_are_echoed_after_the_caps(connect: Connect) -> None:
    async with connect(max_aggressiveness=0.3, min_exit_layer=1) as client:
        raw = with_images(RED, dyvte={"aggressiveness": 0.9})
        account = (await client.post(CHAT, json=raw)).json()["dyvte"]
    assert (account["aggressiveness"], account["min_layer"]) == (0.3, 1)


async def test_the_alias_that_was_asked_is_echoed(connect: Connect) -> None:
    async with connect() as client:
        reply = (await client.post(CHAT, json={**with_images(RED), "model": "demo:off"})).json()
    assert (reply["model"], reply["dyvte"]["policy"]) == ("demo:off", "off")


async def test_max_tokens_ends_with_length(connect: Connect) -> None:
    async with connect() as client:
        reply = (await client.post(CHAT, json=body(max_tokens=5))).json()
    assert reply["choices"][0]["message"]["content"] == "Hello"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 5


async def test_a_stop_string_ends_the_choice_and_keeps_the_account(connect: Connect) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = (await client.post(CHAT, json=body(stop=[", w"]))).json()
    assert reply["choices"][0]["message"]["content"] == "Hello"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == len("Hello, w")
    assert reply["dyvte"]["policy"] == "gate"
    assert engine.finished == [(reply["id"], 0)]
    assert engine.aborted == []


async def test_logprobs_carry_text_bytes_and_rivals(connect: Connect) -> None:
    async with connect(FakeEngine(answer="é".encode())) as client:
        raw = body(logprobs=True, top_logprobs=2)
        content = (await client.post(CHAT, json=raw)).json()["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in content] == [[0xC3], [0xA9]]
    assert [len(token["top_logprobs"]) for token in content] == [2, 2]
    assert content[0]["logprob"] == -0.5


async def test_typed_placeholders_stay_text(connect: Connect) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await client.post(CHAT, json=body("<image> <|im_end|>"))
    assert reply.status_code == 200
    assert engine.requests[0].prompt.num_images == 0


async def errors(connect: Connect, raw: dict[str, object], engine: FakeEngine) -> httpx.Response:
    async with connect(engine) as client:
        reply = await client.post(CHAT, json=raw)
    check("ErrorResponse", reply.json())
    return reply


async def test_an_unknown_model_is_a_404_that_names_the_served(connect: Connect) -> None:
    reply = await errors(connect, {**body(), "model": "gpt-9"}, FakeEngine())
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "demo:off" in reply.json()["error"]["message"]


async def test_a_prompt_too_long_is_a_400(connect: Connect) -> None:
    reply = await errors(connect, body("x" * 600), FakeEngine())
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")


async def test_a_full_queue_is_a_429_with_retry_after(connect: Connect) -> None:
    reply = await errors(connect, body(), FakeEngine(capacity=0))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")


async def test_a_failed_request_is_a_500_with_its_id_and_no_internals(connect: Connect) -> None:
    engine = FakeEngine(fail_after=(2, RequestFailed("CUDA error at 0x7f00", "x")))
    reply = await errors(connect, body(), engine)
    assert reply.status_code == 500
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
    assert "CUDA" not in reply.text


async def test_our_own_fault_is_a_500_with_its_id_and_no_internals(connect: Connect) -> None:
    reply = await errors(connect, body(), FakeEngine(fail_after=(0, KeyError("secret"))))
    assert reply.status_code == 500
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
    assert "secret" not in reply.text
