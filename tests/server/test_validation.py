"""What is not understood or not done is a 400 that names the field as the client wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.errors import ApiError
from server.api.schema import ChatRequest, DyvteObject
from server.api.validation import UNSUPPORTED, parse_chat
from tests.server.examples import body, with_images

PART = "messages[0].content[0]"


def refused(raw: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(raw)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"model": 3}, "model"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": 3}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"logit_bias": {"-7": 1}}, "logit_bias.-7"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias.\u0663"),
        ({"logit_bias": {str(k): 1 for k in range(1025)}}, "logit_bias"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"include_obfuscation": 0}}, "stream_options.include_obfuscation"),
        ({"seed": float(-(2**63))}, "seed"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"safety_identifier": "x" * 65}, "safety_identifier"),
        ({"dyvte": []}, "dyvte"),
        ({"dyvte": {"agressiveness": 0.5}}, "dyvte.agressiveness"),
        ({"dyvte": {"aggressiveness": "0.5"}}, "dyvte.aggressiveness"),
        ({"dyvte": {"exit_layer": 1.5}}, "dyvte.exit_layer"),
        ({"dyvte": {"report": "all"}}, "dyvte.report"),
        ({"dyvte": {"prune": {"method": "fastv", "x": 1}}}, "dyvte.prune.x"),
        ({"dyvte": {"prune": {"layer": 2}}}, "dyvte.prune.method"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused({**body(), **fields}).detail["param"] == param


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_openai_knows_and_we_do_not_do_is_named(name: str) -> None:
    error = refused(body(**{name: "something"}))
    assert error.detail["param"] == name
    assert error.detail["code"] == "unsupported_parameter"


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_value_that_asks_for_nothing_is_accepted(name: str) -> None:
    for value in (None, *UNSUPPORTED[name]):
        parse_chat(body(**{name: value}))


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """JSON Schema's integers include 4.0, and so do those of OpenAI's description."""
    parsed = parse_chat({**body(), "max_tokens": 4.0, "temperature": 1.0, "seed": -2.0})
    assert (parsed.max_tokens, parsed.temperature, parsed.seed) == (4, 1.0, -2)
    for value in (4.5, True, "4"):
        with pytest.raises(ApiError):
            parse_chat({**body(), "max_tokens": value})


def test_a_false_penalty_is_not_zero() -> None:
    assert refused(body(frequency_penalty=False)).detail["param"] == "frequency_penalty"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("hi", "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "tool", "content": "hi"}], "messages[0].tool_call_id"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": "hi", "x": 1}], "messages[0].x"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], f"{PART}.type"),
        ([{"role": "user", "content": [{"type": "video"}]}], f"{PART}.type"),
        ([{"role": "user", "content": [{"type": "video_url"}]}], f"{PART}.type"),
        ([{"role": "user", "content": [{"type": "text"}]}], f"{PART}.text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], f"{PART}.image_url"),
        (
            [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            f"{PART}.type",
        ),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
    ],
)
def test_a_bad_message_is_named_by_its_place(messages: object, param: str) -> None:
    assert refused({"model": "demo", "messages": messages}).detail["param"] == param


def test_a_missing_field_says_so() -> None:
    assert refused({"messages": []}).detail["code"] == "missing_parameter"


def test_every_optional_field_may_be_null() -> None:
    optional = ChatRequest.model_fields.keys() - {"model", "messages"}
    nulls = parse_chat(body(**dict.fromkeys(optional)))
    assert nulls == parse_chat(body())
    parse_chat(body(dyvte=dict.fromkeys(DyvteObject.model_fields)))


def test_service_fields_are_accepted_as_openai_documents_them() -> None:
    parse_chat(
        body(
            user="u",
            metadata={"k": "v"},
            store=False,
            service_tier="auto",
            safety_identifier="s",
            prompt_cache_key="p",
            prompt_cache_retention="24h",
            prompt_cache_options={"mode": "implicit"},
        )
    )


def test_detail_is_one_of_openais() -> None:
    raw = with_images("data:x")
    raw["messages"][0]["content"][0]["image_url"]["detail"] = "huge"
    assert refused(raw).detail["param"] == f"{PART}.image_url.detail"


def test_a_long_unknown_name_is_not_echoed_whole() -> None:
    assert len(str(refused(body(**{"x" * 10_000: 1})))) < 400
